"""The kernels whose latency would decide an open choice, and no others.

A merge that saves operations, arithmetic and bytes at once is made without asking. What is left is a
choice: a region merged, factored, cut or split. Its candidates are the forms that the roofline prior does not
put out of reach of the cheapest; a table that knows the kernels of all of them decides. `open_merges` are
those choices themselves, which tell what a kernel's latency is worth.
"""

from __future__ import annotations

from collections.abc import Iterator

from compiler.cost.choices import Choice, Option
from compiler.cost.counts import FREE
from compiler.cost.kernel import Kernel, kernel_of
from compiler.cost.latency_table import LatencyTable
from compiler.cost.roofline import PRIOR, Roofline
from compiler.ir.graph import Graph, Value
from compiler.merge.associate import order_kernels
from compiler.merge.attempt import Refusal
from compiler.merge.centre import centring_kernels
from compiler.merge.contraction import contract, contraction_kernels
from compiler.merge.engine import certain_merges
from compiler.merge.mixture import mixture_kernels
from compiler.merge.norms import exposed, follows_norm, restored
from compiler.merge.path import starts
from compiler.merge.price import Price
from compiler.merge.regions import Regions
from compiler.merge.site import site

# The prior is off by up to this factor on what runtimes have no fast kernel for.
_OUT_OF_REACH = 12.0


def open_kernels(
    graph: Graph, table: LatencyTable | None = None, prior: Roofline = PRIOR
) -> tuple[Kernel, ...]:
    """Return the kernels of the open choices of a graph that `table` does not hold, each once."""
    found: dict[Kernel, None] = dict.fromkeys(contraction_kernels(graph))
    graph = _certain(graph, table, prior)
    for kernels in (mixture_kernels, order_kernels):
        found |= dict.fromkeys(kernels(graph))
    for choice in _regions(graph, table, prior):
        found |= dict.fromkeys(k for option in choice.options for k in option.kernels)
    found |= dict.fromkeys(centring_kernels(restored(graph)))
    known = () if table is None else table.entries
    return tuple(k for k in found if k.op not in FREE and k.text not in known)


def open_merges(
    graph: Graph, table: LatencyTable | None = None, prior: Roofline = PRIOR
) -> tuple[Choice, ...]:
    """Return the open choices of a graph's regions: each as it stands, or in one of its other forms."""
    return tuple(_regions(_certain(graph, table, prior), table, prior))


def _certain(graph: Graph, table: LatencyTable | None, prior: Roofline) -> Graph:
    graph, _ = contract(graph, Price(graph, prior, table))
    return certain_merges(exposed(graph), prior)[0]


def _regions(graph: Graph, table: LatencyTable | None, prior: Roofline) -> Iterator[Choice]:
    regions = Regions(graph, prior, table, splits=True)
    for root in regions.affine.roots:
        chain = regions.affine.chain(root)
        for j in range(1, len(chain)):
            for i in starts(regions, chain, j):
                yield from _of_region(regions, chain[i], chain[j])


def _of_region(regions: Regions, entry: Value, exit_: Value) -> Iterator[Choice]:
    """Yield the choice of a region as it stands or as one of its candidates, where there is one."""
    names = regions.replaced(entry, exit_)
    kept = sum(map(regions.price.node, names))
    try:
        options = regions.candidates(entry, exit_)
        type_ = regions.type(entry)
        costs = [regions.price.program(p, type_) for p in options]
    except Refusal:
        return
    reach = _OUT_OF_REACH * min(kept, *costs)
    near = [p for p, cost in zip(options, costs, strict=True) if cost <= reach and p.steps]
    standing = tuple(k for n in names if (k := _key(regions, n)) is not None)
    written = [tuple(p.kernels(type_, regions.price.size)) for p in near]
    if {k for kernels in written for k in kernels} - set(standing):
        forms = [
            Option(p.found or f"form {i}", kernels)
            for i, (p, kernels) in enumerate(zip(near, written, strict=True), 1)
        ]
        where = site(regions.graph, tuple(names))
        yield Choice(where, "merge", (Option("as it stands", _paid(standing)), *map(_charged, forms)))


def _charged(option: Option) -> Option:
    return Option(option.name, _paid(option.kernels))


def _paid(kernels: tuple[Kernel, ...]) -> tuple[Kernel, ...]:
    """Return the kernels that cost something."""
    return tuple(k for k in kernels if k.op not in FREE)


def _key(regions: Regions, name: str) -> Kernel | None:
    node = regions.graph.node(name)
    return None if follows_norm(regions.graph, node) else kernel_of(regions.graph, node)
