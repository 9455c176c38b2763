"""What a cell of the search benchmark says: a model, a device and a budget, and what each way made of them.

A way is within the budget where the upper bound that its own search measured is, and where measuring it
again, interleaved with all others, does not contradict: the new interval reaches down to the budget.

Ours wins a cell where it is within the budget and its KL divergence on held-out samples is the lowest of
all ways within it, or within the noise of the lowest. With k_i the divergences on the same samples,

    noise:    the 95% bootstrap interval of mean(k_i ours - k_i lowest), samples resampled, reaches 0

A cell in which no way is within the budget, and ours says so, is infeasible and not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

OURS, UNIFORM = "ours", "uniform int8"
RIVALS = ("NSGA-II", "TPE", "random")
RESAMPLES = 2000


class Verdict(StrEnum):
    """What a cell comes to for ours."""

    WON = "won"
    LOST = "lost"
    OVER = "over budget"
    INFEASIBLE = "infeasible"


@dataclass(frozen=True)
class Entry:
    """One way's variant: its time over the merged float model's as measured again, and what it lost.

    `searched` is the upper bound of that ratio as the search measured it; `divergences` are KL(float
    model || variant) in nats, one a held-out sample; `evaluations` counts the variants measured.
    """

    ratio: float
    low: float
    high: float
    searched: float
    accuracy: float
    divergences: tuple[float, ...]
    evaluations: int
    plan: str

    @property
    def divergence(self) -> float:
        """The mean KL divergence in nats."""
        return float(np.mean(self.divergences))

    def within(self, budget: float) -> bool:
        """Tell whether the variant meets a budget, a multiple of the merged float model's time."""
        return self.searched <= budget and self.low <= budget


@dataclass(frozen=True)
class Cell:
    """The entries of one model at one budget on one device; a way that found nothing has a reason instead."""

    model: str
    device: str
    budget: float
    accuracy: float  # of the float model
    entries: Mapping[str, Entry]
    refusals: Mapping[str, str]

    def document(self) -> dict[str, Any]:
        """Return the cell as JSON values, with its verdict."""
        return {**asdict(self), "verdict": verdict(self).value}


def read_cell(document: Mapping[str, Any]) -> Cell:
    """Return a cell from its document."""
    fields = {key: value for key, value in document.items() if key != "verdict"}
    entries = {
        way: Entry(**{**entry, "divergences": tuple(entry["divergences"])})
        for way, entry in fields.pop("entries").items()
    }
    return Cell(entries=entries, **fields)


def verdict(cell: Cell) -> Verdict:
    """Return what a cell comes to for ours."""
    inside = {way: entry for way, entry in cell.entries.items() if entry.within(cell.budget)}
    ours = cell.entries.get(OURS)
    if ours is None:
        return Verdict.LOST if inside else Verdict.INFEASIBLE
    if OURS not in inside:
        return Verdict.OVER
    lowest = min(inside.values(), key=lambda entry: entry.divergence)
    low, _ = difference(ours.divergences, lowest.divergences)
    return Verdict.WON if low <= 0 else Verdict.LOST


def difference(one: Sequence[float], other: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the mean paired difference of divergences on the same samples."""
    if len(one) != len(other):
        raise ValueError(f"divergences on {len(one)} and on {len(other)} samples are not paired")
    gaps: NDArray[np.float64] = np.subtract(one, other)
    picks = np.random.default_rng(seed).integers(len(gaps), size=(RESAMPLES, len(gaps)))
    low, high = np.percentile(gaps[picks].mean(1), (2.5, 97.5))
    return float(low), float(high)


def best_rival(cell: Cell, rivals: Sequence[str] = RIVALS) -> str | None:
    """Return the rival within the budget that lost least on held-out samples, None without one."""
    inside = [way for way in rivals if way in cell.entries and cell.entries[way].within(cell.budget)]
    return min(inside, key=lambda way: cell.entries[way].divergence, default=None)


def summary(cells: Sequence[Cell]) -> str:
    """Return how many cells ours won, in a sentence."""
    found = [verdict(cell) for cell in cells]
    counted = len(found) - found.count(Verdict.INFEASIBLE)
    others = [f"{found.count(v)} {v}" for v in (Verdict.LOST, Verdict.OVER, Verdict.INFEASIBLE) if v in found]
    return (
        f"Ours wins {found.count(Verdict.WON)} of {counted} cells" + "".join(f"; {o}" for o in others) + "."
    )
