"""How a search rounds what it puts in int8: the steps of `compiler.compress.rounding` that help, by cost.

Rounding costs no time, so that it is no trade: each step is tried on top of those that were kept, with all
in int8 that can be, and stays where the cost on half A falls by more than its standard error, paired by
sample. Every plan of the search with int8 in it then rounds so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compiler.compress.rounding import Steps, able
from compiler.search.journal import Journal
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
        """Return the steps that help, in order; none where nothing can be int8."""
        calibrated = self.structures.calibrated()
        steps = able(calibrated.graph, calibrated.inputs)
        found: list[str] = self.journal.once(lambda: list(self._search(steps)) if steps else [], "rounding")
        return tuple(found)

    def _search(self, steps: Steps) -> Steps:
        kept: Steps = ()
        best = self._read(kept)
        for step in steps:
            tried = (*kept, step)
            found = self._read(tried)
            falls = best - found
            error = falls.std(ddof=1) / math.sqrt(len(falls)) if len(falls) > 1 else 0.0
            self.progress(f"round by {step}: cost of all in int8 {best.mean():.3g} to {found.mean():.3g}")
            if falls.mean() > error:
                kept, best = tried, found
        return kept

    def _read(self, steps: Steps) -> NDArray[np.float64]:
        full = self.structures.calibrated(steps=steps).full
        name = "+".join(steps) or "nearest"
        return self.costs.read({name: full}, self.samples, f"costs of rounding {name}")[name]
