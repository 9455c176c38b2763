"""What programs and nodes cost: by a device's measured latencies, or by the roofline prior.

Within one comparison all prices are of one kind: a table answers for a chain only when it has every
kernel that the chain's candidates need (`merges.md` 1.13).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from compiler.cost.counts import FREE, Counts, counts, node_counts
from compiler.cost.kernel import Kernel, TensorSpec, kernel_call, kernel_counts, kernel_of
from compiler.cost.latency_table import Entry, LatencyTable
from compiler.cost.roofline import Roofline
from compiler.ir.dims import hint
from compiler.ir.graph import Dim, Graph, Operand, TensorType
from compiler.merge.norms import follows_norm
from compiler.merge.step import Program, Ref, Step


@dataclass
class Price:
    """The price of a graph's nodes and of programs; `table` None means the prior."""

    graph: Graph
    prior: Roofline
    table: LatencyTable | None = None
    _nodes: dict[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What the price rests on."""
        return "roofline prior, not a measurement" if self.table is None else self.table.label

    def size(self, dim: Dim) -> int:
        """Return a dimension as an integer, the least it can be."""
        return dim if isinstance(dim, int) else hint(self.graph, dim)

    def node(self, name: str) -> float:
        """Return the price of a node as it stands; infinite where a table does not know it."""
        if name not in self._nodes:
            self._nodes[name] = self._node(name)
        return self._nodes[name]

    def _node(self, name: str) -> float:
        node = self.graph.node(name)
        if node.op in FREE:
            return 0.0
        if follows_norm(self.graph, node):
            # It costs arithmetic behind the memory traffic of the normalisation it belongs to.
            return node_counts(self.graph, node).macs if self.table is None else 0.0
        if self.table is None:
            return self.prior.cost(node_counts(self.graph, node))
        return self._known(kernel_of(self.graph, node))

    def kernel(self, kernel: Kernel) -> float:
        """Return the price of a call; infinite where a table does not know it."""
        if kernel.op in FREE:
            return 0.0
        return self.prior.cost(kernel_counts(kernel)) if self.table is None else self._known(kernel)

    def for_all(self, kernels: Iterable[Kernel]) -> Price:
        """Return the price that can compare these calls: this one, or the prior where it lacks one."""
        known = self.table is None or all(self.kernel(k) < math.inf for k in kernels)
        return self if known else Price(self.graph, self.prior)

    def _known(self, kernel: Kernel) -> float:
        assert self.table is not None
        found = self.table.cost(kernel)
        return math.inf if found is None else found

    def interval(self, kernels: Iterable[Kernel]) -> Entry | None:
        """Return the measured latency of kernels together, None where one of them is not measured."""
        paid = [k for k in kernels if k.op not in FREE]
        if self.table is None or not self.table.covers(paid):
            return None
        found = [self.table.entries[k.text] for k in paid]
        median = sum(e.median for e in found)
        below = math.hypot(*(e.median - e.low for e in found))
        above = math.hypot(*(e.high - e.median for e in found))
        return Entry(median, median - below, median + above)

    def program(self, program: Program, entry: TensorType) -> float:
        """Return the price of a program that begins at a value of type `entry`."""
        if self.table is None:
            return sum(self.prior.cost(c) for c in program_counts(program, entry, self.size))
        kernels = program.kernels(entry, self.size)
        return sum(0.0 if k.op in FREE else self._known(k) for k in kernels)


def product_kernel(
    left: tuple[int, ...], right: tuple[int, ...], dtype: torch.dtype, constant: tuple[bool, bool]
) -> Kernel:
    """Return the call that multiplies two matrices, or stacks of them; a constant right one is a layer's."""
    name = str(dtype).removeprefix("torch.")
    a, b = TensorSpec(left, name, constant[0]), TensorSpec(right, name, constant[1])
    if constant[1] and len(right) == 2:
        weight = TensorSpec((right[1], right[0]), name, True)
        return kernel_call("aten.linear.default", {"input": a, "weight": weight, "bias": None})
    return kernel_call("aten.matmul.default", {"self": a, "other": b})


def program_counts(program: Program, entry: TensorType, size: object) -> list[Counts]:
    """Return the counts of each step."""
    assert callable(size)

    def shapes(step: Step) -> list[tuple[int, ...]]:
        found: list[tuple[int, ...]] = []
        for operand in step.operands.values():
            for item in operand if isinstance(operand, tuple) else (operand,):
                shape = _shape(program, entry, item)
                if shape is not None:
                    found.append(tuple(size(d) for d in shape))
        return found

    return [
        counts(s.op, shapes(s), [tuple(size(d) for d in s.type.shape)], entry.dtype.itemsize)
        for s in program.steps
    ]


def _shape(program: Program, entry: TensorType, operand: Operand) -> tuple[Dim, ...] | None:
    if isinstance(operand, torch.Tensor):
        return tuple(operand.shape)
    if isinstance(operand, Ref):
        return entry.shape if operand.index < 0 else program.steps[operand.index].type.shape
    return None
