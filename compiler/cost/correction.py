"""Whole programs beside the sum of their kernels: what a runtime adds or hides is learnt from a few of them.

A kernel that was timed alone leaves out what happens between kernels, and counts what a whole program does
once. Over 102 published networks the sum of operator times was between a half and nine tenths of the whole,
by phone. Programs of a device that were measured whole correct it, by `transfer`: as one factor on the sum
where they are few, as a factor for each kind of kernel where those predict better when left out. What each
program consists of is kept beside its latency (`LatencyTable.programs`).

A kind of kernel that no measured program has leaves the total unknown, never uncorrected.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compiler.cost.features import kind
from compiler.cost.fitted import FittedModel
from compiler.cost.latency_table import Entry, LatencyTable
from compiler.cost.program import read_program
from compiler.cost.total import Call, graph_kernels, total
from compiler.cost.transfer import Programs, TransferModel, fit_transfer, programs
from compiler.ir.graph import Graph

LEAST_PROGRAMS = 3

KindTimes = Mapping[str, float]


@dataclass(frozen=True)
class Correction:
    """What whole programs take for the times of their kernels by kind; make one with `fit_correction`."""

    kinds: tuple[str, ...]
    model: TransferModel

    programs: int

    def predict(self, times: KindTimes) -> Entry | None:
        """Return a whole program's latency with its interval; None where no measured program had a kind."""
        if not times or set(times) - set(self.kinds):
            return None
        given = _programs(self.kinds, [times])
        low, high = self.model.interval(given)
        return Entry(float(self.model.predict(given)[0]), float(low[0]), float(high[0]))


def kind_times(calls: Sequence[Call], table: LatencyTable, model: FittedModel | None) -> KindTimes | None:
    """Return what calls take by kind of kernel, None where one is neither measured nor predicted."""
    found: dict[str, float] = defaultdict(float)
    for call in calls:
        entry = total([call], table, model, fixed=False).entry
        if entry is None:
            return None
        found[kind(call.kernel)] += entry.median
    return dict(found)


def fit_correction(measured: Sequence[tuple[KindTimes, float]], groups: Sequence[str] = ()) -> Correction:
    """Return the correction of programs with kernel times and the latency each had as a whole.

    `groups` names their families, as for `fit_transfer`. Raises ValueError for fewer than three.
    """
    kinds = tuple(sorted({name for times, _ in measured for name in times}))
    whole: NDArray[np.float64] = np.array([latency for _, latency in measured], dtype=np.float64)
    model = fit_transfer(_programs(kinds, [times for times, _ in measured]), whole, groups)
    return Correction(kinds, model, len(measured))


def table_correction(table: LatencyTable, model: FittedModel | None) -> Correction | None:
    """Return the correction of a table's own whole programs, None where they are fewer than three.

    A program with a kernel that is neither measured nor predicted is left out.
    """
    rows = []
    for label, written in table.programs.items():
        whole, graph = table.entries.get(label), read_program(written).graph
        times = kind_times(graph_kernels(graph, table), table, model)
        if whole is not None and times:
            rows.append((times, whole.median))
    return fit_correction(rows) if len(rows) >= LEAST_PROGRAMS else None


def corrected(
    graph: Graph, table: LatencyTable, correction: Correction, model: FittedModel | None
) -> Entry | None:
    """Return what a graph takes as a whole, without the fixed cost of a call; None where that is unknown."""
    times = kind_times(graph_kernels(graph, table), table, model)
    return None if times is None else correction.predict(times)


def _programs(kinds: Sequence[str], rows: Sequence[KindTimes]) -> Programs:
    amounts = np.array([[times.get(name, 0.0) for name in kinds] for times in rows]).reshape(
        len(rows), len(kinds)
    )
    return programs({"sum": amounts.sum(1, keepdims=True), "kinds": amounts})
