"""Which pairs of calls a runtime runs as one: nn-Meter's test, on measurements of the device at hand.

Two calls A and B, B reading A's result alone, are fused where together they take clearly less than apart:

    T_A + T_B - T_AB > alpha min(T_A, T_B),    alpha = 0.5

(Zhang et al., "nn-Meter", MobiSys 2021, 4.1). The three times are ordinary measured kernels, B alone
and A alone as `Kernel`s and AB as a `Composite`; the verdict is a query over them. Its interval follows
from theirs, and where it holds the threshold the pair is `unclear` and counts as apart, which is what
the sum says without a rule. Pairs of which runtimes never make one, two convolutions say, are not asked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from compiler.cost.composite import ENTRY, Composite
from compiler.cost.counts import FREE
from compiler.cost.features import kind
from compiler.cost.kernel import kernel_of, parse_kernel
from compiler.cost.latency_table import Entry, LatencyTable
from compiler.errors import UsageError
from compiler.ir.graph import Graph, Kind, Node

ALPHA = 0.5

# What runtimes compute behind another operation while its result is at hand.
FOLLOWERS = frozenset(
    f"aten.{name}"
    for name in (
        "relu.default",
        "hardtanh.default",
        "hardswish.default",
        "hardsigmoid.default",
        "sigmoid.default",
        "tanh.default",
        "gelu.default",
        "silu.default",
        "leaky_relu.default",
        "elu.default",
        "clamp.default",
        "batch_norm.default",
        "add.Tensor",
        "mul.Tensor",
    )
)
_PART = re.compile(r"(?P<call>.+?\)) of (?P<reads>(?:x|%)[^;()]*)(?:; |$)", re.DOTALL)


class Verdict(StrEnum):
    """What the test says of a pair."""

    FUSED = "fused"
    APART = "apart"
    UNCLEAR = "unclear"  # the measurements' intervals do not decide it


@dataclass(frozen=True)
class Fusion:
    """A measured pair: what running it together saves, as a share of the smaller call, and the verdict."""

    pair: Composite
    saved: Entry
    verdict: Verdict

    @property
    def kinds(self) -> tuple[str, str]:
        """The kinds of the two calls."""
        first, second = self.pair.calls
        return kind(first), kind(second)


def fusion(pair: Composite, first: Entry, second: Entry, both: Entry, alpha: float = ALPHA) -> Fusion:
    """Return the verdict on a pair from the times of its calls apart and together."""
    least = min(first, second, key=lambda e: e.median)
    saved = first.median + second.median - both.median - alpha * least.median
    # The smaller of the two stands in the sum with the factor 1 - alpha.
    terms = [(1 - alpha if e is least else 1.0, e) for e in (first, second)]
    low = saved - math.hypot(*(f * (e.median - e.low) for f, e in terms), both.high - both.median)
    high = saved + math.hypot(*(f * (e.high - e.median) for f, e in terms), both.median - both.low)
    found = Verdict.FUSED if low > 0 else Verdict.APART if high <= 0 else Verdict.UNCLEAR
    share = [(bound + alpha * least.median) / least.median for bound in (saved, low, high)]
    return Fusion(pair, Entry(*share), found)


def pairs(graph: Graph) -> tuple[Composite, ...]:
    """Return the pairs of a graph's calls that a runtime may fuse, each once."""
    found: dict[Composite, None] = {}
    for node in graph.ops():
        producer = fused_producer(graph, node)
        if producer is not None:
            found[pair_of(graph, producer, node)] = None
    return tuple(found)


def fused_producer(graph: Graph, node: Node) -> Node | None:
    """Return the call that a follower might be fused into, None where there is none."""
    if node.op not in FOLLOWERS:
        return None
    for _, value in node.values():
        made = graph.producer(value)
        sole = made.kind is Kind.OP and len(graph.users(made.name)) == 1 and len(made.types) == 1
        if sole and made.op not in FREE and sum(v == value for _, v in node.values()) == 1:
            return made
    return None


def pair_of(graph: Graph, first: Node, second: Node) -> Composite:
    """Return two calls of a graph as one kernel; every other operand is an input of it."""
    a, b = kernel_of(graph, first), kernel_of(graph, second)
    inputs = iter(range(ENTRY, -100, -1))
    seen: dict[object, int] = {}

    def place(value: object) -> int:
        if value not in seen:
            seen[value] = next(inputs)
        return seen[value]

    data = [
        [v for _, v in n.values() if graph.producer(v).kind is not Kind.CONSTANT] for n in (first, second)
    ]
    reads = [
        tuple(map(place, data[0])),
        tuple(0 if v.node == first.name else place(v) for v in data[1]),
    ]
    return Composite([a, b], reads)


def parse_composite(text: str) -> Composite:
    """Read a composite from its text; raises UsageError saying what cannot be read."""
    parts = list(_PART.finditer(text))
    if not parts or "".join(p[0] for p in parts) != text:
        raise UsageError(f"{text!r} is not a composite: it reads `call of x; call of %0`")
    reads, results = [], [0] * len(parts)
    for part in parts:
        places = []
        for name in part["reads"].split(","):
            if name.startswith("x"):
                places.append(ENTRY - int(name[1:] or 0))
            else:
                place, _, output = name[1:].partition("#")
                places.append(int(place))
                results[int(place)] = int(output or 0)
        reads.append(tuple(places))
    return Composite([parse_kernel(p["call"]) for p in parts], reads, results)


def fusions(table: LatencyTable, alpha: float = ALPHA) -> tuple[Fusion, ...]:
    """Return the verdicts on all pairs that a table holds together and apart."""
    found = []
    for pair in composites(table):
        if len(pair.calls) == 2 and pair.reads[1].count(0) == 1:
            first, second = (table.entry(call) for call in pair.calls)
            both = table.entry(pair)
            if first and second and both:
                found.append(fusion(pair, first, second, both, alpha))
    return tuple(found)


def composites(table: LatencyTable) -> Iterator[Composite]:
    """Yield the kernels of several calls that a table holds."""
    for text in table.entries:
        if is_composite(text):
            yield parse_composite(text)


def is_composite(text: str) -> bool:
    """Tell whether a table's key is that of several calls."""
    return text.startswith("aten.") and _PART.match(text) is not None and " of " in text


def fused_kinds(found: Iterable[Fusion]) -> Mapping[tuple[str, str], bool]:
    """Return for pairs of kinds whether the runtime fuses them: what most of their clear verdicts say."""
    votes: dict[tuple[str, str], int] = {}
    for one in found:
        vote = {Verdict.FUSED: 1, Verdict.APART: -1, Verdict.UNCLEAR: 0}[one.verdict]
        votes[one.kinds] = votes.get(one.kinds, 0) + vote
    return {kinds: vote > 0 for kinds, vote in votes.items()}
