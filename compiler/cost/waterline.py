"""A graph as the kernels a good runtime would run, against what a machine can do: roofline over a sequence.

For kernel k with n_k operations and q_k bytes moved, on a machine of R operations and W bytes a unit of time,

    intensity_k = n_k / q_k          balance = R / W          bandwidth-bound where intensity_k < balance
    attainable_k = max(n_k / R, q_k / W)                      attainable = sum_k attainable_k
    C = attainable / measured,       1 / C_total = sum_k f_k / C_k  with f_k = attainable_k / attainable

(Williams, Waterman and Patterson, "Roofline", CACM 2009; Lavin, "On the Efficiency of Convnets", 2024.)
Attainable time is a lower bound, so kernels are drawn as favourably as runtimes make them: an activation
or a sum behind an operation is computed while its result is at hand, reshapes are free, and a value that
is int8 at rest moves as int8. Where formats change between kernels, the conversion is one of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from compiler.compress.quantize import quantized_nodes
from compiler.cost.composite import Composite
from compiler.cost.counts import FREE, node_counts
from compiler.cost.fusion import fused_producer
from compiler.cost.kernel import TensorSpec, kernel_counts, kernel_of
from compiler.cost.latency_table import LatencyTable
from compiler.cost.quantized import Quantized
from compiler.cost.reading import read_kernel
from compiler.cost.roofline import Roofline
from compiler.cost.total import graph_kernels, total
from compiler.errors import UnsupportedModelError
from compiler.ir.dims import hint
from compiler.ir.graph import Graph, Kind, Node, Value
from compiler.target import FLOAT, INT8

CONVERSIONS = "quantized_decomposed."
INT8_LANES = 4.0  # a vector register holds four times as many int8 values as float32 ones


@dataclass(frozen=True)
class GraphKernel:
    """One kernel of a graph: its first node, every node it computes, and what it does.

    `bytes` are those read and written once, in the formats the values have at rest.
    """

    node: str
    op: str
    module: str
    precision: str
    nodes: tuple[str, ...]
    operations: float
    bytes: float

    @property
    def intensity(self) -> float:
        """Operations for each byte moved."""
        return self.operations / self.bytes


@dataclass(frozen=True)
class Machine:
    """What a machine can do in one unit of time: operations by precision, and bytes moved.

    The unit is a nanosecond, or an instruction where a device counts those. `measured` is the number
    of kernels the rates were read from, 0 for a prior, whose ratios alone mean something.
    """

    rates: Mapping[str, float]
    bandwidth: float
    measured: int = 0

    def balance(self, precision: str = FLOAT) -> float:
        """Return the operations that take as long as moving one byte."""
        return self.rates[precision] / self.bandwidth

    def attainable(self, kernel: GraphKernel) -> float:
        """Return the least time a kernel can take."""
        return max(kernel.operations / self.rates[kernel.precision], kernel.bytes / self.bandwidth)

    def total(self, kernels: Iterable[GraphKernel]) -> float:
        """Return the least time several kernels can take, one after the other."""
        return sum(map(self.attainable, kernels))

    def bound(self, kernel: GraphKernel) -> str:
        """Tell whether moving bytes or computing holds a kernel back."""
        return "bandwidth" if kernel.intensity < self.balance(kernel.precision) else "compute"

    def faster(self, factor: float) -> Machine:
        """Return a machine that does all of it `factor` times as fast."""
        rates = {precision: rate * factor for precision, rate in self.rates.items()}
        return replace(self, rates=rates, bandwidth=self.bandwidth * factor)


def prior_machine(prior: Roofline) -> Machine:
    """Return the machine of a prior, in units of one float operation."""
    return Machine({FLOAT: 1.0, INT8: INT8_LANES}, 1 / prior.macs_per_byte)


def measured_machine(table: LatencyTable) -> Machine | None:
    """Return the highest rates any kernel of a table reached, None where it holds no kernel that computes.

    A kernel's rates are taken at the upper bound of its time: rates it reached for certain. Where no int8
    kernel was measured its rate is the float rate times `INT8_LANES`.
    """
    rates: dict[str, float] = {}
    bandwidth, measured = 0.0, 0
    for text, entry in table.entries.items():
        kernel = read_kernel(text)
        if kernel is None or isinstance(kernel, Composite):
            continue
        try:
            does = kernel_counts(kernel.of if isinstance(kernel, Quantized) else kernel)
        except UnsupportedModelError:
            continue
        precision = INT8 if isinstance(kernel, Quantized) else FLOAT
        rates[precision] = max(rates.get(precision, 0.0), does.macs / entry.high)
        bandwidth = max(bandwidth, does.bytes / entry.high)
        measured += 1
    if not rates.get(FLOAT) or not bandwidth:
        return None
    rates.setdefault(INT8, rates[FLOAT] * INT8_LANES)
    return Machine(rates, bandwidth, measured)


def graph_waterline(graph: Graph) -> tuple[GraphKernel, ...]:
    """Return the kernels of a graph in the order they run; a symbolic dimension takes its example size."""
    cut = _Cut(graph, quantized=quantized_nodes(graph))
    for node in graph.ops():
        cut.place(node)
    made = (_kernel(cut, nodes) for nodes in cut.groups.values())
    return tuple(kernel for kernel in made if kernel.bytes > 0)


def measured_times(
    graph: Graph, kernels: Sequence[GraphKernel], table: LatencyTable
) -> tuple[float | None, ...]:
    """Return what the kernels of a graph take by measurement, None for one that was not measured."""
    names = [n.name for n in graph.ops() if n.op not in FREE]
    calls = dict(zip(names, graph_kernels(graph, table), strict=True))

    def time(kernel: GraphKernel) -> float | None:
        if kernel.precision == INT8:
            entry = table.entry(_quantized(graph, graph.node(kernel.node)))
        else:
            entry = total([calls[name] for name in kernel.nodes], table, None, fixed=False).entry
        return None if entry is None else entry.median

    return tuple(map(time, kernels))


def _quantized(graph: Graph, node: Node) -> Quantized:
    """Return the key an int8 call was measured by: the float call's, its weight a constant."""
    kernel = kernel_of(graph, node)
    operands = tuple(
        (key, replace(spec, constant=True) if key == "weight" and isinstance(spec, TensorSpec) else spec)
        for key, spec in kernel.operands
    )
    return Quantized(replace(kernel, operands=operands), INT8)


@dataclass
class _Cut:
    """Which node is computed in which kernel, while a graph is being cut."""

    graph: Graph
    groups: dict[str, list[Node]] = field(default_factory=dict)
    owner: dict[str, str] = field(default_factory=dict)
    quantized: frozenset[str] = frozenset()

    def place(self, node: Node) -> None:
        """Put a node in the kernel of what it follows, in one of its own, or in none."""
        if node.op in FREE or self._folded(node):
            return
        first = self._leader(node)
        self.owner[node.name] = first
        self.groups.setdefault(first, []).append(node)

    def source(self, value: Value) -> Value:
        """Return where a value that is read comes from: behind reshapes and conversions that vanish."""
        node = self.graph.producer(value)
        while node.kind is Kind.OP and node.name not in self.owner:
            value = next(v for _, v in node.values())
            node = self.graph.producer(value)
        return value

    def int8(self, node: Node) -> bool:
        """Tell whether a node computes in int8, or only hands int8 on."""
        return node.name in self.quantized or self._passes(node)

    def readers(self, name: str) -> Iterator[Node]:
        """Yield the nodes that read a node's results, reshapes looked through."""
        for user in self.graph.users(name):
            if user.op in FREE:
                yield from self.readers(user.name)
            else:
                yield user

    def _folded(self, node: Node) -> bool:
        if _kind(node) == "choose" or self._passes(node):
            return True
        if _kind(node) != "dequantize":
            return False
        data = self.graph.producer(next(v for _, v in node.values()))
        return data.kind is Kind.CONSTANT or all(self.int8(user) for user in self.readers(node.name))

    def _passes(self, node: Node) -> bool:
        """Tell whether a node quantises again what was dequantized for a reshape at most."""
        if _kind(node) != "quantize":
            return False
        return (
            _kind(self.graph.producer(self._behind_free(next(v for _, v in node.values())))) == "dequantize"
        )

    def _leader(self, node: Node) -> str:
        if _kind(node) == "quantize":
            made = self.graph.producer(self._behind_free(next(v for _, v in node.values())))
            first = self.owner.get(made.name)
            return first if first is not None and self.int8(self.graph.node(first)) else node.name
        before = fused_producer(self.graph, node)
        return node.name if before is None or _kind(before) else self.owner.get(before.name, node.name)

    def _behind_free(self, value: Value) -> Value:
        node = self.graph.producer(value)
        while node.op in FREE:
            value = next(v for _, v in node.values())
            node = self.graph.producer(value)
        return value


def _kernel(cut: _Cut, nodes: Sequence[Node]) -> GraphKernel:
    graph, first, own = cut.graph, nodes[0], {n.name for n in nodes}
    read = {cut.source(v) for node in nodes for _, v in node.values()}
    written = {Value(n.name, i) for n in nodes for i in range(len(n.types)) if _leaves(graph, n, own)}
    moved = sum(_size(graph, v) for v in {v for v in read if v.node not in own} | written)
    computed = [n for n in nodes if not _kind(n)] or list(nodes)
    operations = sum(node_counts(graph, n).macs for n in computed)
    precision = INT8 if cut.int8(first) else FLOAT
    return GraphKernel(
        first.name, first.op, _module(nodes), precision, tuple(n.name for n in nodes), operations, moved
    )


def _module(nodes: Sequence[Node]) -> str:
    return next((n.origin for n in nodes if n.origin), "")


def _leaves(graph: Graph, node: Node, own: set[str]) -> bool:
    return any(user.name not in own for user in graph.users(node.name))


def _size(graph: Graph, value: Value) -> float:
    type_ = graph.type_of(value)
    return math.prod(hint(graph, d) for d in type_.shape) * type_.dtype.itemsize


def _kind(node: Node) -> str:
    """Return `quantize`, `dequantize` or `choose` (of a scale) for a conversion, else nothing."""
    return node.op.removeprefix(CONVERSIONS).split("_", 1)[0] if node.op.startswith(CONVERSIONS) else ""
