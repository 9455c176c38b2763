"""How far the cost model is off on whole models it has not seen: leave one model out.

Of each model all kernels and whole programs are forgotten that no other model needs, its int8 and narrower
ones too; a model
is fitted to the rest, and what the whole then takes by the sum of measured and predicted kernels is held
against what it was measured to take as one program. So is that sum corrected by the other programs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from compiler.cost.correction import corrected, table_correction
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
    corrected: Entry | None = None  # the sum, by the other models' whole programs

    @property
    def error(self) -> float | None:
        """The prediction's relative error, None where one of the two figures is missing."""
        return _error(self.measured, self.predicted.entry)

    @property
    def corrected_error(self) -> float | None:
        """The corrected prediction's relative error, None where one of the two figures is missing."""
        return _error(self.measured, self.corrected)

    @property
    def covered(self) -> bool | None:
        """Whether the prediction's interval holds the measured median."""
        if self.measured is None or self.predicted.entry is None:
            return None
        return self.predicted.entry.low <= self.measured.median <= self.predicted.entry.high


@dataclass(frozen=True)
class Accuracy:
    """What held-out models come to: mean absolute error, the share within 10%, the intervals' coverage.

    `corrected_mape` is the error of corrected sums, over the `corrected_models` that have one.
    """

    models: int
    mape: float
    within: float
    coverage: float
    percent: int = PERCENT
    corrected_models: int = 0
    corrected_mape: float | None = None


def hold_out(
    graphs: Mapping[str, Graph], needs: Mapping[str, Sequence[str]], table: LatencyTable
) -> tuple[HeldOut, ...]:
    """Return each merged graph's measured latency beside its prediction; `needs` are the kernels of each."""
    found = []
    for name, graph in graphs.items():
        others = {text for other, texts in needs.items() if other != name for text in texts}
        own = {text for text in needs[name] if text not in others and text in table.entries}
        rest = replace(table, entries={t: e for t, e in table.entries.items() if t not in own})
        model = fit_table(rest)
        predicted = total(graph_kernels(graph, rest), rest, model, fixed=False)
        correction = table_correction(rest, model)
        entry = None if correction is None else corrected(graph, rest, correction, model)
        found.append(HeldOut(name, table.entry(WholeProgram(graph)), predicted, len(own), entry))
    return tuple(found)


def accuracy(rows: Sequence[HeldOut]) -> Accuracy | None:
    """Return the errors of all rows that have one, None where none has."""
    errors = [abs(row.error) for row in rows if row.error is not None]
    if not errors:
        return None
    covered = [bool(row.covered) for row in rows if row.error is not None]
    share = sum(e <= WITHIN for e in errors) / len(errors)
    mended = [abs(row.corrected_error) for row in rows if row.corrected_error is not None]
    return Accuracy(
        models=len(errors),
        mape=sum(errors) / len(errors),
        within=share,
        coverage=sum(covered) / len(covered),
        corrected_models=len(mended),
        corrected_mape=sum(mended) / len(mended) if mended else None,
    )


def _error(measured: Entry | None, predicted: Entry | None) -> float | None:
    return None if measured is None or predicted is None else predicted.median / measured.median - 1
