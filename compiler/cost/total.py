"""What a whole graph takes, as the sum of its kernels: measured where they were, predicted where not.

Calls that the runtime fuses (`fusion`) count as one kernel: a follower adds `T_AB - T_A` where that pair
was measured, and nothing where only its kind is known to be fused. What is measured and what is
predicted stays told apart, and a kernel that is neither leaves the total unknown, which is not the sum
without it.

The interval: errors of measured kernels are independent, so their squares add up; those of predictions
are not, for a model that is wrong about one kernel is wrong about those like it, so the model's own
covariance C of logarithms is taken, `variance = tᵀ C t`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from compiler.cost.counts import FREE
from compiler.cost.features import kind
from compiler.cost.fitted import PERCENT, FittedModel, Prediction
from compiler.cost.fusion import fused_kinds, fused_producer, fusions, pair_of
from compiler.cost.kernel import Kernel, kernel_of
from compiler.cost.latency_table import Entry, LatencyTable
from compiler.ir.graph import Graph

MEASURED_PERCENT = 95  # of a measured entry's interval
Z = {percent: float(ndtri(0.5 + percent / 200)) for percent in (PERCENT, MEASURED_PERCENT)}


@dataclass(frozen=True)
class Call:
    """One kernel of a graph; `behind` is the pair it is fused in, where it is the second of one."""

    kernel: Kernel
    behind: Kernel | None = None


@dataclass(frozen=True)
class Total:
    """A graph's latency in the unit of its table, an interval of `PERCENT`, and what it is made of.

    `entry` is None where a kernel is neither measured nor like one that was; `unknown` counts those by kind.
    """

    entry: Entry | None
    measured: int
    predicted: int
    fused: int
    unknown: Mapping[str, int]


def graph_kernels(graph: Graph, table: LatencyTable | None = None) -> tuple[Call, ...]:
    """Return the kernels that a graph runs as, by what `table` says is fused; free operations are none."""
    together = fused_kinds(fusions(table)) if table is not None else {}
    return tuple(_calls(graph, together))


def _calls(graph: Graph, together: Mapping[tuple[str, str], bool]) -> Iterator[Call]:
    for node in graph.ops():
        if node.op in FREE:
            continue
        kernel = kernel_of(graph, node)
        first = fused_producer(graph, node)
        if first is not None and together.get((kind(kernel_of(graph, first)), kind(kernel))):
            yield Call(kernel, pair_of(graph, first, node))
        else:
            yield Call(kernel)


def total(calls: Sequence[Call], table: LatencyTable, model: FittedModel | None, fixed: bool = True) -> Total:
    """Return what kernels take together, with the `fixed` cost of a call that runs them, or without."""
    measured = [e for call in calls if (e := _measured(call, table)) is not None]
    guessed: list[tuple[Kernel, Prediction]] = []
    unknown: Counter[str] = Counter()
    for call in calls:
        if _measured(call, table) is None:
            found = model.predict(call.kernel) if model is not None else None
            if found is None:
                unknown[kind(call.kernel)] += 1
            else:
                guessed.append((call.kernel, found))
    terms = [*measured, *((table.fixed,) if fixed and table.fixed else ())]
    entry = None if unknown or not calls else _sum(terms, guessed, model)
    return Total(entry, len(measured), len(guessed), sum(c.behind is not None for c in calls), dict(unknown))


def _measured(call: Call, table: LatencyTable) -> Entry | None:
    """Return what a call adds by measurement, None where it was not measured."""
    if call.behind is None:
        return table.entry(call.kernel)
    pair, first = table.entry(call.behind), table.entry(call.behind.calls[0])
    if pair is None or first is None:
        return Entry(0.0, 0.0, 0.0)  # its kind is fused
    reach = math.hypot(pair.high - pair.median, first.median - first.low)
    added = max(0.0, pair.median - first.median)
    return Entry(added, max(0.0, added - reach), added + reach)


def _sum(
    measured: Sequence[Entry], guessed: Sequence[tuple[Kernel, Prediction]], model: FittedModel | None
) -> Entry:
    median = sum(e.median for e in measured) + sum(p.median for _, p in guessed)
    below = math.hypot(*(e.median - e.low for e in measured)) / Z[MEASURED_PERCENT]
    above = math.hypot(*(e.high - e.median for e in measured)) / Z[MEASURED_PERCENT]
    error = 0.0
    if guessed and model is not None:
        times = np.array([p.median for _, p in guessed])
        error = math.sqrt(max(0.0, float(times @ model.covariance([k for k, _ in guessed]) @ times)))
    low = median - Z[PERCENT] * math.hypot(below, error)
    return Entry(median, max(low, 0.0), median + Z[PERCENT] * math.hypot(above, error))
