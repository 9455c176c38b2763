"""Repair: swaps of one or two options of a plan, where the joint cost says what the sum of parts did not.

The programme minimises a sum of single costs, which ranks plans well and is wrong about the best one most
of all: it picks options whose costs were estimated too low. A swap keeps to the time that the model
allows and is taken where the cost of the whole plan falls by `GAIN` on the first half of the samples and
falls on a second half too, which no estimate before has looked at. Without the second half, swaps fit
the samples rather than the model: they pay where a budget hurts and overfit where it does not.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from compiler.search.experiments import Cost
from compiler.search.solver import Problem
from compiler.search.space import Choice
from compiler.search.state import State
from compiler.search.trial import Trial

GAIN = 0.005
TRIES = 3  # repaired plans that are measured


def repair(state: State, winner: Trial) -> Trial:
    """Return the winner, or a plan near it that costs less and was measured within the budget."""
    second = state.lab.second
    if second is None:
        return winner
    for _ in range(TRIES):
        problem = state.problem(state.margins()[-1])
        better = improved(
            problem, winner.choice, state.lab.cost, second, state.limits.repairs, state.possible
        )
        if better == winner.choice or state.left() == 0:
            return winner
        made = next((t for t in state.trials if t.choice == better), None) or state.trial(better)
        if state.fits(made) and state.best() == made:
            state.note(f"repaired: cost {winner.price[0]:.3g} to {made.price[0]:.3g}")
            return made
    return winner


def improved(
    problem: Problem,
    start: Choice,
    cost: Cost,
    second: Cost,
    most: int,
    possible: Callable[[Choice], bool] = lambda _: True,
) -> Choice:
    """Return what swaps make of a choice, after at most `most` readings of a swapped choice's cost."""
    current, seen = start, {start}
    spent = 0
    while True:
        own = cost(current).mean, second(current).mean
        for choice in _nearest(problem, current):
            if choice in seen or not possible(choice):
                continue
            if spent == most:
                return current
            spent += 1
            seen.add(choice)
            if cost(choice).mean <= (1 - GAIN) * own[0] and second(choice).mean < own[1]:
                current = choice
                break
        else:
            return current


def _nearest(problem: Problem, choice: Choice) -> list[Choice]:
    """Return what one or two swaps make of a choice within the problem's limits, the cheapest sum first."""
    allowed = [c for c in _swapped(problem, choice) if _within(problem, c)]
    return sorted(allowed, key=lambda c: (problem.cost(c), problem.time(c), c))


def _swapped(problem: Problem, choice: Choice) -> Iterator[Choice]:
    groups = range(len(choice))
    swaps = [
        (g, o)
        for g in groups
        for o in range(len(problem.costs[g]))
        if o != choice[g] and problem.offered((g, o))
    ]
    for taken in itertools.chain(((s,) for s in swaps), itertools.combinations(swaps, 2)):
        changed = dict(taken)
        if len(changed) == len(taken):
            yield tuple(changed.get(g, choice[g]) for g in groups)


def _within(problem: Problem, choice: Choice) -> bool:
    if choice in problem.forbidden or problem.time(choice) > problem.limit:
        return False
    taken = set(enumerate(choice))
    size = sum(s[o] for s, o in zip(problem.sizes, choice, strict=False))
    return size <= problem.most_bytes and not any(cut <= taken for cut in problem.cuts)
