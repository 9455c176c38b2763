"""Search under a latency budget on NAS-Bench-201: measurements until a strategy comes near the best.

A measurement is one latency and one accuracy of a cell; the objective is CIFAR-100 test accuracy, the budget
the 20% or 50% quantile of a phone's latencies. Cells without a published latency are refused, at no cost.
"Ours" is `compiler.search.strategies.surrogate` on a description of the cell; the rest are the other
strategies of the folder as they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from shared.published import cells
from shared.published.tables import column, read

from compiler.search.budget import Budget
from compiler.search.output_cost import CostEstimate
from compiler.search.space import Choice, Site, Space
from compiler.search.strategies.surrogate import Surrogate
from compiler.search.strategy import Setting, Strategy, open_strategy
from compiler.search.trial import Reading, Trial

SPACE = Space(tuple(Site(f"edge:{i}", "cell", cells.OPERATIONS) for i in range(len(cells.EDGES))))
BUDGETS = (("pixel3", 5.04), ("pixel3", 10.68), ("samsung_a50", 14.0), ("samsung_a50", 21.0))
MOST = {"ours": 300, "tpe": 150, "nsga2": 500, "evolution": 1000, "random": 1000}
DRAWS = {
    "ours": 1,
    "tpe": 1,
    "nsga2": 1,
    "evolution": 5,
    "random": 5,
}  # times as many seeds where it is cheap
GAPS = {"1 point": (1.0, 0.0), "0.5 points": (0.5, 0.0), "0.5%": (0.0, 0.005)}


@dataclass(frozen=True)
class Reached:
    """Measurements a strategy took in each run until within a gap of the best; None where it never was."""

    device: str
    budget_ms: float
    best: float
    strategy: str
    gap: str
    counts: tuple[int | None, ...]

    @property
    def cell(self) -> str:
        """The median, and the share of runs that got there where it is not all."""
        reached = [c for c in self.counts if c is not None]
        share = len(reached) / len(self.counts)
        median = float(np.median([np.inf if c is None else c for c in self.counts]))
        shown = f"{median:.0f}" if np.isfinite(median) else f"> {MOST[self.strategy]}"
        return shown if share == 1 else f"{shown} ({share:.0%})"


@dataclass(frozen=True)
class Landscape:
    """The cells that have a latency on a phone: what each takes, and how accurate it is."""

    known: dict[Choice, tuple[float, float]]
    refused: frozenset[Choice]
    budget: float

    @property
    def best(self) -> float:
        """The accuracy of the best cell within the budget."""
        return max(accuracy for ms, accuracy in self.known.values() if ms <= self.budget)

    def trial(self, choice: Choice) -> Trial:
        """Return a cell as measured; the base is the slowest cell there is."""
        ms, accuracy = self.known[choice]
        base = max(ms for ms, _ in self.known.values())
        loss = 100 - accuracy
        reading = Reading(*(ms / base,) * 3, *(ms * 1e6,) * 3, base * 1e6)
        return Trial(choice, reading, CostEstimate(loss, 0.0, loss, loss, 1))


def landscape(path: Path, device: str, budget: float) -> Landscape:
    """Return the connected cells of a table on one device."""
    rows = [r for r in read(path) if r["no_path"] == "0" and r[device]]
    codes = [tuple(int(digit) for digit in r["code"]) for r in rows]
    pairs = zip(column(rows, device), column(rows, "acc_c100"), strict=True)
    known = {code: (float(ms), float(accuracy)) for code, (ms, accuracy) in zip(codes, pairs, strict=True)}
    every = itertools.product(range(len(cells.OPERATIONS)), repeat=len(cells.EDGES))
    return Landscape(known, frozenset(c for c in every if c not in known), budget)


def strategies() -> dict[str, Callable[[Setting], Strategy]]:
    """Return how to open each strategy that is compared."""

    def describe(choice: Choice) -> list[float]:
        return [float(x) for x in cells.described(np.array([choice]))[0]]

    named = {name: lambda setting, name=name: open_strategy(name, setting) for name in MOST if name != "ours"}
    return {"ours": lambda setting: Surrogate(setting, describe), **named}


def reached(land: Landscape, device: str, strategy: str, seeds: int) -> list[Reached]:
    """Return the measurements to each gap, over runs by seed."""
    found: dict[str, list[int | None]] = {gap: [] for gap in GAPS}
    for seed in range(seeds * DRAWS[strategy]):
        run = _run(land, strategies()[strategy], MOST[strategy], seed)
        for gap in GAPS:
            found[gap].append(run.get(gap))
    return [Reached(device, land.budget, land.best, strategy, gap, tuple(c)) for gap, c in found.items()]


def _run(land: Landscape, make: Callable[[Setting], Strategy], most: int, seed: int) -> dict[str, int]:
    strategy = make(Setting(SPACE, Budget(nanoseconds=land.budget * 1e6), seed))
    limits = {gap: land.best * (1 - share) - points for gap, (points, share) in GAPS.items()}
    trials: list[Trial] = []
    found: dict[str, int] = {}
    while len(trials) < most and len(found) < len(GAPS):
        choice = strategy.propose(trials, land.refused)
        if choice is None:
            break
        trials.append(land.trial(choice))
        ms, accuracy = land.known[choice]
        for gap, limit in limits.items():
            if ms <= land.budget and accuracy >= limit - 1e-9:
                found.setdefault(gap, len(trials))
    return found
