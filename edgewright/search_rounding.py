"""How a search rounds int8 and int4: those steps of `compiler.compress.rounding` that help, by cost.

Rounding costs no time, so that it is no trade: each step is tried on top of those that were kept, with
all in its precision that can be, and stays where the cost on half A falls by more than its standard
error, paired by sample. Every plan of the search with that precision in it then rounds so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compiler.compress.rounding import Steps, able
from compiler.ir.graph import Graph
from compiler.search.journal import Journal
from compiler.target import INT4, INT8
from edgewright.search_costs import CostReader
from edgewright.search_samples import Sample
from edgewright.search_structures import Structures
from edgewright.stages import Progress


@dataclass(frozen=True)
class Rounding:
    """What rounding is chosen from; `samples` are those of half A that costs are read on."""

    structures: Structures
    costs: CostReader
    samples: Sequence[Sample]
    journal: Journal
    progress: Progress

    def chosen(self) -> Steps:
        """Return the steps that help, in order; none where nothing can be in a precision that has some."""
        found: list[str] = self.journal.once(lambda: [*self._int8(), *self._int4()], "rounding")
        return tuple(found)

    def _int8(self) -> Steps:
        calibrated = self.structures.calibrated()
        steps = able(calibrated.graph, calibrated.inputs)
        return self._search(steps, INT8, lambda s: self.structures.calibrated(steps=s).full)

    def _int4(self) -> Steps:
        layers = self.structures.int4_layers()
        steps = able(self.structures.graph, layers, INT4) if layers else ()
        return self._search(steps, INT4, self.structures.int4)

    def _search(self, steps: Steps, precision: str, rounded: Callable[[Steps], Graph]) -> Steps:
        if not steps:
            return ()
        kept: Steps = ()
        best = self._read(kept, precision, rounded)
        for step in steps:
            tried = (*kept, step)
            found = self._read(tried, precision, rounded)
            falls = best - found
            error = falls.std(ddof=1) / math.sqrt(len(falls)) if len(falls) > 1 else 0.0
            self.progress(
                f"round by {step}: cost of all in {precision} {best.mean():.3g} to {found.mean():.3g}"
            )
            if falls.mean() > error:
                kept, best = tried, found
        return kept

    def _read(self, steps: Steps, precision: str, rounded: Callable[[Steps], Graph]) -> NDArray[np.float64]:
        name = "+".join(steps) or "nearest"
        label = f"costs of rounding {precision}: {name}"
        return self.costs.read({name: rounded(steps)}, self.samples, label)[name]
