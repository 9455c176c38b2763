"""How far the cost model is off on whole models it has not seen: leave one model out.

Of each model all kernels are forgotten that no other model needs, its int8 and narrower ones too; a model
is fitted to the rest, and what the whole then takes by the sum of measured and predicted kernels is held
against what it was measured to take as one program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from compiler.cost.fitted import PERCENT
from compiler.cost.latency_table import Entry, LatencyTable
from compiler.cost.program import WholeProgram
from compiler.cost.reading import fit_table
from compiler.cost.total import Total, graph_kernels, total
from compiler.ir.graph import Graph

WITHIN = 0.10


@dataclass(frozen=True)
class HeldOut:
    """One model: what it was measured to take, and what the sum without its own kernels says."""

    model: str
    measured: Entry | None
    predicted: Total
    forgotten: int  # kernels that only this model has

    @property
    def error(self) -> float | None:
        """The prediction's relative error, None where one of the two figures is missing."""
        if self.measured is None or self.predicted.entry is None:
            return None
        return self.predicted.entry.median / self.measured.median - 1

    @property
    def covered(self) -> bool | None:
        """Whether the prediction's interval holds the measured median."""
        if self.measured is None or self.predicted.entry is None:
            return None
        return self.predicted.entry.low <= self.measured.median <= self.predicted.entry.high


@dataclass(frozen=True)
class Accuracy:
    """What held-out models come to: mean absolute error, the share within 10%, the intervals' coverage."""

    models: int
    mape: float
    within: float
    coverage: float
    percent: int = PERCENT


def hold_out(
    graphs: Mapping[str, Graph], needs: Mapping[str, Sequence[str]], table: LatencyTable
) -> tuple[HeldOut, ...]:
    """Return each merged graph's measured latency beside its prediction; `needs` are the kernels of each."""
    found = []
    for name, graph in graphs.items():
        others = {text for other, texts in needs.items() if other != name for text in texts}
        own = {text for text in needs[name] if text not in others and text in table.entries}
        rest = replace(table, entries={t: e for t, e in table.entries.items() if t not in own})
        predicted = total(graph_kernels(graph, rest), rest, fit_table(rest), fixed=False)
        found.append(HeldOut(name, table.entry(WholeProgram(graph)), predicted, len(own)))
    return tuple(found)


def accuracy(rows: Sequence[HeldOut]) -> Accuracy | None:
    """Return the errors of all rows that have one, None where none has."""
    errors = [abs(row.error) for row in rows if row.error is not None]
    if not errors:
        return None
    covered = [bool(row.covered) for row in rows if row.error is not None]
    share = sum(e <= WITHIN for e in errors) / len(errors)
    return Accuracy(len(errors), sum(errors) / len(errors), share, sum(covered) / len(covered))
