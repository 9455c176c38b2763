"""Regularised evolution (Real, Aggarwal, Huang and Le, AAAI 2019).

The population is the last `population` trials: the oldest dies, however good it was, so that a lucky reading
does not breed for ever. The best of a random `tournament` of them is changed at one site. Best is least
violation of the budget, then least cost (Deb's rule of constrained domination).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from compiler.search.space import Choice, Space
from compiler.search.strategy import DRAWS, Setting, draw, generator, rank
from compiler.search.trial import Trial


@dataclass(frozen=True)
class Evolution:
    """Proposes a mutant of a tournament's winner; random choices until the population is full."""

    setting: Setting
    population: int = 50
    tournament: int = 10

    def propose(self, trials: Sequence[Trial], refused: Collection[Choice] = ()) -> Choice | None:
        """Return an unmeasured mutant, a random choice where none is found, None where all were measured."""
        random = generator(self.setting, len(trials), len(refused))
        seen = {trial.choice for trial in trials} | set(refused)
        space = self.setting.space
        if len(trials) >= self.population:
            alive = trials[-self.population :]
            for _ in range(DRAWS):
                picks = random.choice(len(alive), min(self.tournament, len(alive)), replace=False)
                parent = min((alive[i] for i in picks), key=lambda trial: rank(trial, self.setting))
                child = _mutant(space, parent.choice, random)
                if child not in seen:
                    return child
        return draw(space, random, seen)


def open_strategy(setting: Setting) -> Evolution:
    """Return regularised evolution with the paper's proportions at a population of 50."""
    return Evolution(setting)


def _mutant(space: Space, choice: Choice, random: np.random.Generator) -> Choice:
    """Return a choice with one site changed, of those that have a second option."""
    free = [g for g, site in enumerate(space.sites) if len(site.options) > 1]
    if not free:
        return choice
    site = free[int(random.integers(len(free)))]
    step = int(random.integers(1, len(space.sites[site].options)))
    changed = (choice[site] + step) % len(space.sites[site].options)
    return (*choice[:site], changed, *choice[site + 1 :])
