"""Methods of one program merged within a bound on its bytes.

Each method is merged by itself, at its own token count, and takes the cheaper form of every site
there. Where one method merges a site to dense and another keeps its factors, the program holds both.
Where it may not hold that much, sites go back to their factored form in all methods, those first
that lose the least price per byte saved: the price the merge engine decided by, or, where it used
several kinds of price, the roofline prior for all.

What a site weighs is read off the graphs: the constants its merged form brought in, less the factors
that come back. A program holds more than its constants, so `build_within` bounds the constants,
lowers, and tightens the bound by as much as the written program exceeds what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

from compiler.cost.roofline import PRIOR
from compiler.errors import InfeasibleBudgetError
from compiler.ir.constants import constant_bytes, contents
from compiler.ir.graph import Graph
from compiler.merge import Attempt, Outcome
from compiler.merge.attempt import Work
from edgewright.stages import Prepared

Merge = Callable[[Prepared, frozenset[str]], Prepared]
Built = TypeVar("Built")


class OversizeError(InfeasibleBudgetError):
    """A program is larger than allowed; `bytes` is its size."""

    def __init__(self, size: int, most_bytes: int) -> None:
        """Say both sizes."""
        super().__init__(f"the program takes {size} bytes, {most_bytes} are allowed")
        self.bytes = size


@dataclass(frozen=True)
class Reversion:
    """A site that can go back to its factored form: the price it loses and the bytes it saves."""

    site: str
    loss: float
    saved_bytes: int


@dataclass(frozen=True)
class Fitted:
    """Methods merged within a bound; `kept` names the sites that the bound left factored."""

    methods: tuple[Prepared, ...]
    kept: frozenset[str]

    @property
    def bytes(self) -> int:
        """The bytes of all constants, equal ones counted once."""
        return constant_bytes(m.graph for m in self.methods)


def merge_within(sources: Sequence[Prepared], most_bytes: int | None, merge: Merge) -> Fitted:
    """Merge canonical models, keeping factored as few sites as the bound on their constants asks for.

    `merge` merges one of them with some sites kept as they are. Where even all that can be saved is
    not enough, the smallest form is returned.
    """
    fitted = Fitted(tuple(merge(source, frozenset()) for source in sources), frozenset())
    while most_bytes is not None and fitted.bytes > most_bytes:
        taken = _enough(reversions(sources, fitted), fitted.bytes - most_bytes)
        if not taken:
            break
        kept = fitted.kept | taken
        fitted = Fitted(tuple(merge(source, kept) for source in sources), kept)
    return fitted


def build_within(
    sources: Sequence[Prepared],
    most_bytes: int | None,
    merge: Merge,
    build: Callable[[Fitted], Built],
) -> Built:
    """Merge, and build with sites factored until the program itself takes at most `most_bytes`.

    `build` raises OversizeError where it does not. Raises InfeasibleBudgetError naming the least
    size where no site is left to factor.
    """
    bound = most_bytes
    while True:
        fitted = merge_within(sources, bound, merge)
        try:
            return build(fitted)
        except OversizeError as error:
            assert most_bytes is not None
            if not reversions(sources, fitted):
                raise InfeasibleBudgetError(
                    f"the program takes {error.bytes} bytes at the least, with every site in its smaller "
                    f"form; --max-bytes allows {most_bytes}"
                ) from error
            bound = fitted.bytes - (error.bytes - most_bytes)


def reversions(sources: Sequence[Prepared], fitted: Fitted) -> tuple[Reversion, ...]:
    """Return the merged sites whose factored form is smaller, the least loss per byte saved first."""
    attempts = [[a for a in m.attempts if a.outcome is Outcome.MERGED] for m in fitted.methods]
    loss = _loss if len({a.priced_by for found in attempts for a in found}) == 1 else _prior_loss
    before, after = contents(s.graph for s in sources), contents(m.graph for m in fitted.methods)
    sites = {a.site for found in attempts for a in found} - fitted.kept
    found = []
    for site in sites:
        merges = [[a for a in listed if a.site == site] for listed in attempts]
        weight = _saved(site, merges, sources, fitted.methods, before, after)
        found.append(Reversion(site, sum(map(loss, chain.from_iterable(merges))), weight))
    smaller = [r for r in found if r.saved_bytes > 0]
    return tuple(sorted(smaller, key=lambda r: (r.loss / r.saved_bytes, r.site)))


def _loss(attempt: Attempt) -> float:
    return attempt.before.cost - attempt.after.cost


def _prior_loss(attempt: Attempt) -> float:
    return _prior(attempt.before) - _prior(attempt.after)


def _prior(work: Work) -> float:
    return max(work.macs, work.bytes * PRIOR.macs_per_byte) + len(work.ops) * PRIOR.launch_macs


def _saved(
    site: str,
    merges: Sequence[Sequence[Attempt]],
    sources: Sequence[Prepared],
    methods: Sequence[Prepared],
    before: Mapping[str, int],
    after: Mapping[str, int],
) -> int:
    """Return the bytes of constants a site's merges brought in, less the factors they alone took out."""
    brought: dict[str, int] = {}
    returning: dict[str, int] = {}
    for attempts, source, method in zip(merges, sources, methods, strict=True):
        if attempts:
            brought |= _of(method.graph, site)
            returning |= _read(source.graph, attempts)
    saved = sum(size for digest, size in brought.items() if digest not in before)
    return saved - sum(size for digest, size in returning.items() if digest not in after)


def _of(graph: Graph, site: str) -> dict[str, int]:
    """Return the constants that the merge engine placed for a site."""
    names = (n for n, c in graph.constants.items() if graph.node(n).origin == site)
    return _sizes(graph, names)


def _read(graph: Graph, attempts: Iterable[Attempt]) -> dict[str, int]:
    """Return the constants that the operations of regions read in the graph before the merge."""
    nodes = (graph.node(name) for a in attempts for name in a.nodes if name in graph)
    return _sizes(graph, (v.node for n in nodes for _, v in n.values() if v.node in graph.constants))


def _sizes(graph: Graph, names: Iterable[str]) -> dict[str, int]:
    found: Any = [graph.constants[name] for name in names]
    return {c.digest: c.tensor.numel() * c.tensor.itemsize for c in found}


def _enough(candidates: Sequence[Reversion], excess: int) -> frozenset[str]:
    """Return the first sites that save `excess` bytes together, all where they do not."""
    taken, saved = [], 0
    for candidate in candidates:
        if saved >= excess:
            break
        taken.append(candidate.site)
        saved += candidate.saved_bytes
    return frozenset(taken)
