"""A search strategy: what to measure next, given everything that was measured.

A strategy sees the same trials whoever proposed them, so that strategies can be compared at equal numbers of
measured evaluations, and so that a search which was interrupted goes on from its journal. Its
proposals are a function of the setting and of the trials alone: equal trials give equal proposals, in a new
process too.

Constraints are as measured: a trial is feasible where the upper bound of its latency is within the budget and
its program within the bytes; `excess` ranks the infeasible. A winner is always feasible.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Protocol

import numpy as np

from compiler.errors import UsageError
from compiler.search import strategies
from compiler.search.budget import Budget
from compiler.search.space import Choice, Space
from compiler.search.trial import Trial

DRAWS = 64  # tries at an unmeasured choice before the choices after a random one are walked through


@dataclass(frozen=True)
class Setting:
    """What a strategy works on; equal settings and trials give equal proposals."""

    space: Space
    budget: Budget
    seed: int = 0
    most_bytes: float = math.inf


class Strategy(Protocol):
    """Proposes what to measure next."""

    def propose(self, trials: Sequence[Trial], refused: Collection[Choice] = ()) -> Choice | None:
        """Return a choice that no trial has, None where there is nothing left worth measuring.

        `trials` is everything measured so far in order, `refused` what cannot be built and is not proposed
        again; between two calls both only grow.
        """
        ...


def list_strategies() -> tuple[str, ...]:
    """Return the names of the strategies, sorted."""
    return tuple(sorted(module.name for module in iter_modules(strategies.__path__)))


def open_strategy(name: str, setting: Setting) -> Strategy:
    """Return the strategy of a name; raises UsageError naming those there are."""
    if name not in list_strategies():
        raise UsageError(f"there is no search strategy {name!r}; known: {', '.join(list_strategies())}")
    opened: Strategy = import_module(f"{strategies.__name__}.{name}").open_strategy(setting)
    return opened


def excess(trial: Trial, setting: Setting) -> float:
    """Return how far a trial is over the limits, the further of the two; 0 or less is feasible.

    The upper bound of the latency less the budget, in multiples of the base's latency; the size of the
    program over the most it may be, less 1.
    """
    latency = trial.reading.upper(setting.budget) - setting.budget.limit(trial.reading.base_ns)
    return max(latency, (trial.bytes or 0) / setting.most_bytes - 1)


def rank(trial: Trial, setting: Setting) -> tuple[float, float, float]:
    """Return what trials are sorted by, the best first: excess above 0, then cost, then latency."""
    return max(0.0, excess(trial, setting)), *trial.price


def winner(trials: Sequence[Trial], setting: Setting) -> Trial | None:
    """Return the trial of least cost within the limits, the faster of equals; None where there is none."""
    fits = [trial for trial in trials if excess(trial, setting) <= 0]
    return min(fits, key=lambda trial: trial.price, default=None)


def generator(setting: Setting, *counters: int) -> np.random.Generator:
    """Return random numbers of one proposal, a function of the seed and of how many trials there are."""
    return np.random.default_rng([setting.seed, *counters])


def draw(space: Space, random: np.random.Generator, seen: Collection[Choice]) -> Choice | None:
    """Return a random choice that is not in `seen`, None where all are."""
    sizes = [len(site.options) for site in space.sites]
    for _ in range(DRAWS):
        choice = tuple(int(random.integers(size)) for size in sizes)
        if choice not in seen:
            return choice
    return _next_unseen(sizes, random, seen)


def _next_unseen(
    sizes: Sequence[int], random: np.random.Generator, seen: Collection[Choice]
) -> Choice | None:
    """Return the first unseen choice after a random one, counting as an odometer does."""
    total = math.prod(sizes)
    start = int(random.integers(min(total, 2**62)))
    steps = range(min(total, len(seen) + 1))
    found = (_digits((start + step) % total, sizes) for step in steps)
    return next((choice for choice in found if choice not in seen), None)


def _digits(number: int, sizes: Sequence[int]) -> Choice:
    digits = []
    for size in reversed(sizes):
        number, digit = divmod(number, size)
        digits.append(digit)
    return tuple(reversed(digits))
