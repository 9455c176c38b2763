"""Calibration samples chosen from a larger pool, by one of the ways in `compiler.search.selection`.

All ways keep typical samples in the mix: int8 ranges and mean costs are read from what is chosen, and
a set of hard samples alone would shift both. The random choice is the baseline that the others have to
beat, and costs no pass over the pool.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from compiler.errors import UsageError
from compiler.search import selection

Inputs = Sequence[torch.Tensor]


@dataclass(frozen=True)
class Answer:
    """What a model gives for one call of n samples: its floating outputs, its own features [n, d]."""

    outputs: Sequence[torch.Tensor]
    features: torch.Tensor


@dataclass(frozen=True)
class Call:
    """One call of the pool; `run` answers it when the answer is first asked for.

    `inputs` are flat and hold `samples` samples; `labels` [samples] is None where there are none.
    """

    inputs: Inputs
    samples: int
    run: Callable[[Inputs], Answer]
    labels: torch.Tensor | None = None

    @cached_property
    def answer(self) -> Answer:
        """The model's answer."""
        return self.run(self.inputs)


class Way(Protocol):
    """A way to choose, which its module is; `LABELLED` where it looks at labels."""

    FACT: str
    LABELLED: bool

    def observe(self, calls: Iterable[Call]) -> NDArray[np.float64]:
        """Return the facts of the samples of all calls, one row for each sample."""
        ...

    def select(
        self, facts: NDArray[np.float64], count: int, random: np.random.Generator
    ) -> NDArray[np.int64]:
        """Return the places of `count` distinct samples."""
        ...


@cache
def ways() -> dict[str, Way]:
    """Return the ways to choose by name."""
    names = sorted(m.name for m in pkgutil.iter_modules(selection.__path__))
    return {name: importlib.import_module(f"{selection.__name__}.{name}") for name in names}


def way(name: str) -> Way:
    """Return a way by name; raises UsageError naming those there are."""
    if name not in ways():
        raise UsageError(
            f"there is no way {name!r} to select calibration samples; accepted: {', '.join(ways())}"
        )
    return ways()[name]


def select(facts: NDArray[np.float64], count: int, name: str, seed: int = 0) -> NDArray[np.int64]:
    """Return the sorted places of `count` distinct samples of a pool, all of them where it holds no more.

    `facts` is what the way's `observe` gave for the pool, one row for each sample. Raises UsageError
    for an unknown way, fewer than two samples asked for, and facts that are not finite.
    """
    chosen = way(name)
    if count < 2:
        raise UsageError(f"{count} calibration samples are asked for; a search needs two at least")
    if count >= len(facts):
        return np.arange(len(facts))
    _check_finite(facts, chosen.FACT)
    return np.sort(chosen.select(facts, count, np.random.default_rng(seed)))


def _check_finite(facts: NDArray[np.float64], what: str) -> None:
    bad = ~np.isfinite(facts.reshape(len(facts), -1)).all(1)
    if bad.any():
        raise UsageError(
            f"the {what} of sample {int(bad.argmax())} (counted from 0) of the calibration pool is not a "
            f"finite number, nor that of {int(bad.sum()) - 1} others: leave those out, or select at random"
        )
