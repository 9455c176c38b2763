"""The roofline prior: `T(op) = max(MACs / peak, bytes / bandwidth) + launch`.

Before anything is measured on a device, decisions need some price. This one is a prior and says
so: it fixes only two ratios, and costs are in multiply-accumulates, never in seconds. A
measured latency table takes its place where there is one.

Williams, Waterman and Patterson, "Roofline", CACM 2009; `merges.md` 1.13.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from compiler.cost.counts import Counts, node_counts
from compiler.ir.graph import Graph, Node


@dataclass(frozen=True)
class Roofline:
    """A machine as two ratios; the defaults are a prior for mobile CPUs, not a measurement.

    `macs_per_byte`: multiply-accumulates that take as long as moving one byte.
    `launch_macs`: multiply-accumulates that take as long as starting one operation.
    `depthwise_taps`: the largest kernel of a depthwise convolution that the runtime has code for. A
    larger one runs as a matrix product of one column for each channel, in tiles of `tile_columns`.
    None where the runtime has code for any.
    """

    macs_per_byte: float = 2.0
    launch_macs: float = 20_000.0
    depthwise_taps: int | None = None
    tile_columns: int = 8

    def cost(self, counts: Counts) -> float:
        """Return the price of one operation, in multiply-accumulates."""
        if counts.bytes == 0:
            return 0.0
        macs = counts.macs * self.tile_columns if self.lacks(counts) else counts.macs
        return max(macs, counts.bytes * self.macs_per_byte) + self.launch_macs

    def lacks(self, counts: Counts) -> bool:
        """Tell whether the runtime has no code of its own for a depthwise kernel of that size."""
        return self.depthwise_taps is not None and counts.taps > self.depthwise_taps

    def total(self, graph: Graph, nodes: Iterable[Node]) -> float:
        """Return the price of several nodes."""
        return sum(self.cost(node_counts(graph, n)) for n in nodes)


PRIOR = Roofline()
