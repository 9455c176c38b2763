r"""Model soups: the mean of state dicts of one architecture. LOSSY, so the caller measures what it costs.

    uniform   :math:`\theta = \frac1n \sum_i \theta_i`
    greedy    by held-out score, best first; an ingredient joins iff the score of the running mean
              :math:`\theta + (\theta_i - \theta) / (k + 1)` is strictly better than without it

Sources: Model soups, arXiv 2203.05482 (recipe 1 is the greedy one); POINTS, arXiv 2409.04828.

Means are taken in float64 and rounded once, to the ingredients' own dtype. What all ingredients
hold alike is kept as it is, so that a mask with -inf in it stays one. Integers, booleans and
constant tables must be alike. BatchNorm statistics are averaged as a start only: the statistics of a
mean of weights are not the mean of the statistics, so they must be gathered again
(`compiler.compress.batch_statistics`). For the same reason a soup is made of train forms:
:math:`\mathrm{mean}(S_i W_i) \ne \mathrm{mean}(S_i)\,\mathrm{mean}(W_i)`, and likewise a mean of
low-rank factors is not the factor of a mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from compiler.errors import UsageError

StateDict: TypeAlias = Mapping[str, torch.Tensor]
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Untrained:
    """The keys of a state dict that no optimiser moved.

    `tables` (masks, position indices, frozen scales) must be alike in all ingredients; `statistics`
    (of BatchNorms) may differ, since they are gathered again.
    """

    tables: frozenset[str] = frozenset()
    statistics: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Trial:
    """One ingredient of a greedy soup: its own score, and what the soup scored with it.

    `with_it` is None for the first, which is the soup.
    """

    ingredient: int
    own: float
    with_it: float | None
    kept: bool


@dataclass(frozen=True)
class GreedySoup:
    """The greedy soup, what was tried in which order, and the score it ended with."""

    state: dict[str, torch.Tensor]
    trials: tuple[Trial, ...]
    score: float

    @property
    def kept(self) -> tuple[int, ...]:
        """The ingredients of the soup, in the order they joined."""
        return tuple(t.ingredient for t in self.trials if t.kept)


def uniform_soup(
    states: Sequence[StateDict], untrained: Untrained | None = None, names: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
    """Return the mean of all state dicts.

    Args:
        states: the ingredients; keys, shapes and dtypes must agree.
        untrained: the buffers among the keys. Without it, statistics are told by their names in
            torch's BatchNorm, and floating tables cannot be told from parameters.
        names: what messages call the ingredients.

    Raises UsageError naming the first key in which the ingredients do not fit each other.
    """
    blend = _Blend(states, untrained, names)
    mean = blend.wide(0)
    for count in range(1, len(states)):
        mean = blend.add(mean, count, count)
    return blend.narrow(mean)


def greedy_soup(
    states: Sequence[StateDict],
    score: Callable[[StateDict], float],
    untrained: Untrained | None = None,
    names: Sequence[str] = (),
) -> GreedySoup:
    """Return the greedy soup by a held-out score, of which more is better.

    `score` is called once on each ingredient as it came, then once on each soup that is tried; it
    should gather BatchNorm statistics again before it scores a soup. Arguments and errors are those
    of `uniform_soup`; a score that is no finite number is a UsageError as well.
    """
    blend = _Blend(states, untrained, names)
    own = [_finite(score(state), blend.names[i]) for i, state in enumerate(states)]
    order = sorted(range(len(states)), key=lambda i: -own[i])
    mean, best = blend.wide(order[0]), own[order[0]]
    trials = [Trial(order[0], best, None, True)]
    for index in order[1:]:
        count = sum(t.kept for t in trials)
        tried = blend.add(mean, index, count)
        value = _finite(score(blend.narrow(tried)), f"the soup with {blend.names[index]}")
        trials.append(Trial(index, own[index], value, value > best))
        if value > best:
            mean, best = tried, value
    return GreedySoup(blend.narrow(mean), tuple(trials), best)


def _finite(score: float, name: str) -> float:
    value = float(score)
    if not math.isfinite(value):
        raise UsageError(f"the score of {name} is {value}; a score must be a finite number, more is better")
    return value


class _Blend:
    """Checked ingredients, and the arithmetic over those of their keys that are averaged."""

    def __init__(
        self, states: Sequence[StateDict], untrained: Untrained | None, names: Sequence[str]
    ) -> None:
        if not states:
            raise UsageError("a soup needs at least one ingredient")
        self.states = states
        self.names = list(names) or [f"ingredient {i + 1}" for i in range(len(states))]
        self.untrained = untrained or Untrained(statistics=_named_statistics(states[0]))
        self.first = representatives(states[0])
        check_alike(states, self.names)
        self._check_ties()
        self.keys = [key for key in states[0] if self.first[key] == key and self._averaged(key)]

    def wide(self, index: int) -> dict[str, torch.Tensor]:
        """Return the averaged keys of one ingredient in float64, tied keys once."""
        return {key: _double(self.states[index][key]) for key in self.keys}

    def add(self, mean: Mapping[str, torch.Tensor], index: int, count: int) -> dict[str, torch.Tensor]:
        """Return the mean of `count` ingredients with one more; equal tensors give back themselves."""
        state = self.states[index]
        return {key: old + (_double(state[key]) - old) / (count + 1) for key, old in mean.items()}

    def narrow(self, mean: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return a whole state dict in the ingredients' dtypes; tied keys share one tensor."""
        base = self.states[0]
        own = {key: value.to(base[key].dtype) for key, value in mean.items()}
        own |= {key: base[key].clone() for key in base if self.first[key] == key and key not in own}
        return {key: own[self.first[key]] for key in base}

    def _averaged(self, key: str) -> bool:
        """Tell whether a key is averaged; raises UsageError where it differs and must not."""
        first, *others = (state[key] for state in self.states)
        different = next((i for i, t in enumerate(others, 1) if not torch.equal(first, t)), None)
        if different is None:
            return False
        trained = first.is_floating_point() or first.is_complex()
        if key in self.untrained.statistics:
            return trained
        if not trained or key in self.untrained.tables:
            kind = "a constant table" if trained else f"{_type(first)}"
            raise UsageError(
                f"{key!r} is {kind} and differs between {self.names[0]} and {self.names[different]}: it is "
                "not trained, so it has no mean; ingredients must hold the same"
            )
        for name, state in zip(self.names, self.states, strict=True):
            if not torch.isfinite(state[key]).all():
                raise UsageError(f"{key!r} of {name} holds values that are not finite; it has no mean")
        return True

    def _check_ties(self) -> None:
        for name, state in zip(self.names, self.states, strict=True):
            for key, first in self.first.items():
                if key != first and not torch.equal(state[key], state[first]):
                    raise UsageError(
                        f"{key!r} and {first!r} are tied in {self.names[0]} and differ in {name}; tie or "
                        "untie them in all ingredients"
                    )


def check_alike(states: Sequence[StateDict], names: Sequence[str]) -> None:
    """Raise UsageError at the first key that is not in all, or whose shape or dtype differs.

    The message names the key, both shapes and whose they are.
    """
    base = states[0]
    for name, state in zip(names[1:], states[1:], strict=True):
        for key in [*base, *state]:
            if key not in state or key not in base:
                has, lacks = (names[0], name) if key in base else (name, names[0])
                raise UsageError(f"{has} has {key!r} and {lacks} has not: ingredients share one architecture")
            if (base[key].shape, base[key].dtype) != (state[key].shape, state[key].dtype):
                raise UsageError(
                    f"{key!r} is {_type(base[key])} in {names[0]} and {_type(state[key])} in {name}: "
                    "ingredients share one architecture and one dtype"
                )


def representatives(state: StateDict) -> dict[str, str]:
    """Return for each key the first key that holds the same storage in the same way."""
    firsts: dict[tuple[object, ...], str] = {}
    result = {}
    for key, tensor in state.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        result[key] = firsts.setdefault(place, key) if tensor.numel() else key
    return result


def _named_statistics(state: StateDict) -> frozenset[str]:
    return frozenset(key for key in state if key.rpartition(".")[2] in STATISTICS)


def _double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to(torch.complex128 if tensor.is_complex() else torch.float64)


def _type(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
