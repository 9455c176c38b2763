"""What to measure next: the kernels whose uncertainty could turn a decision.

A choice has options, each a set of kernels whose times add up. With times known only as normal
distributions, taking the option of the least mean loses, against knowing them,

    value = s φ(d / s) - d Φ(-d / s)     for the best option and its nearest rival

with d the difference of their means and s the standard deviation of that difference: the expected value
of perfect information (Raiffa and Schlaifer, 1961). Each kernel takes the share of the value
that its variance has in s². A kernel that decides nothing is worth nothing, however uncertain.
Kinds of which nothing is known come first, one kernel of each: without it there is no mean to speak of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from scipy.special import ndtr

from compiler.cost.features import kind
from compiler.cost.fitted import PERCENT, FittedModel
from compiler.cost.kernel import Kernel
from compiler.cost.latency_table import LatencyTable
from compiler.cost.total import MEASURED_PERCENT, Z

DENSITY = 1 / math.sqrt(2 * math.pi)  # of a standard normal at its middle


@dataclass(frozen=True)
class Option:
    """One way to do something: its name, and the kernels it runs, as often as it runs them."""

    name: str
    kernels: tuple[Kernel, ...]


@dataclass(frozen=True)
class Choice:
    """Options at one site of which a decision takes one; `method` says what it is of.

    Methods are `merge`, `precision` and `width`.
    """

    site: str
    method: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Belief:
    """What is held of a kernel's or an option's time; `measured` where nothing of it is predicted."""

    mean: float
    error: float
    measured: bool

    @property
    def interval(self) -> tuple[float, float]:
        """The bounds that hold the time in `PERCENT` of cases; at least 0."""
        reach = Z[PERCENT] * self.error
        return max(0.0, self.mean - reach), self.mean + reach


Beliefs = Callable[[Kernel], Belief | None]


def beliefs(table: LatencyTable, model: FittedModel | None) -> Beliefs:
    """Return what is held of kernels: by measurement, or else by the model; None where neither knows."""
    known: dict[str, Belief | None] = {}

    def belief(kernel: Kernel) -> Belief | None:
        if kernel.text not in known:
            known[kernel.text] = _belief(kernel, table, model)
        return known[kernel.text]

    return belief


def _belief(kernel: Kernel, table: LatencyTable, model: FittedModel | None) -> Belief | None:
    entry = table.entry(kernel)
    if entry is not None:
        return Belief(entry.median, (entry.high - entry.low) / (2 * Z[MEASURED_PERCENT]), True)
    found = model.predict(kernel) if model is not None else None
    return None if found is None else Belief(found.median, (found.high - found.low) / (2 * Z[PERCENT]), False)


def option_belief(option: Option, belief: Beliefs) -> Belief | None:
    """Return what is held of an option, None where a kernel of it is unknown."""
    parts = [belief(k) for k in option.kernels]
    known = [p for p in parts if p is not None]
    if len(known) < len(parts):
        return None
    return Belief(
        sum(p.mean for p in known), math.hypot(*(p.error for p in known)), all(p.measured for p in known)
    )


def value(choice: Choice, belief: Beliefs) -> float:
    """Return what knowing a choice's times is expected to save; 0 where fewer than two are estimated."""
    rivals = _rivals(choice, belief)
    return 0.0 if rivals is None else _saved(*rivals)


def settled(choice: Choice, belief: Beliefs) -> bool:
    """Tell whether the best option's interval lies below all others'."""
    found = [option_belief(o, belief) for o in choice.options]
    known = sorted((f for f in found if f is not None), key=lambda f: f.mean)
    return len(known) == len(found) and all(known[0].interval[1] < f.interval[0] for f in known[1:])


def next_kernels(
    missing: Sequence[Kernel], choices: Iterable[Choice], belief: Beliefs, count: int
) -> tuple[Kernel, ...]:
    """Return the `count` of `missing` kernels that are worth most, those of unknown kinds first."""
    worth = dict.fromkeys(missing, 0.0)
    for choice in choices:
        for kernel, share in _shares(choice, belief):
            if kernel in worth:
                worth[kernel] += share
    first: dict[str, Kernel] = {}
    for kernel in missing:
        if belief(kernel) is None:
            first.setdefault(kind(kernel), kernel)
    leading = list(first.values())

    def rank(kernel: Kernel) -> tuple[bool, float, float, str]:
        held = belief(kernel)
        return held is not None, -worth[kernel], -(held.error if held else 0.0), kernel.text

    others = sorted((k for k in missing if k not in set(leading)), key=rank)
    # Of an unknown kind one reading makes the others known: they wait for it.
    waiting = [k for k in others if belief(k) is None]
    return tuple([*leading, *(k for k in others if belief(k) is not None), *waiting][:count])


def _shares(choice: Choice, belief: Beliefs) -> Iterable[tuple[Kernel, float]]:
    rivals = _rivals(choice, belief)
    if rivals is None:
        return
    saved = _saved(*rivals)
    variance = sum(b.error**2 for b, _ in rivals)
    for _, option in rivals:
        for kernel in set(option.kernels):
            held = belief(kernel)
            if held is not None and variance > 0:
                often = option.kernels.count(kernel)
                yield kernel, saved * often * held.error**2 / variance


def _rivals(choice: Choice, belief: Beliefs) -> tuple[tuple[Belief, Option], tuple[Belief, Option]] | None:
    """Return the best option and the one most likely to beat it."""
    found = [(held, o) for o in choice.options if (held := option_belief(o, belief)) is not None]
    if len(found) < 2:
        return None
    best = min(found, key=lambda pair: pair[0].mean)
    others = [pair for pair in found if pair is not best]
    return best, max(others, key=lambda pair: _saved(best, pair))


def _saved(best: tuple[Belief, Option], other: tuple[Belief, Option]) -> float:
    difference = other[0].mean - best[0].mean
    error = math.hypot(best[0].error, other[0].error)
    if error == 0:
        return 0.0
    scaled = difference / error
    return float(error * DENSITY * math.exp(-scaled * scaled / 2) - difference * ndtr(-scaled))
