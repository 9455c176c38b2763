r"""What to measure next: the single options of a search, those first that could change the chosen plan.

An option is looked at in three steps, each dearer than the one before. Its outlook, a cost model's
expectation, says what it saves. Its cost on samples takes its graph, fitted to them. Its time takes the
device. So costs are read for at most `CANDIDATES` times the options that can still be measured, and until
one is read, an option that saves s is taken to cost

    :math:`s \cdot \mathrm{median}_{o\,\mathrm{read}} (c_o / s_o) / \mathrm{HOPE}`

which is what others of its kind cost, or less.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from compiler.search.experiments import Outlook
from compiler.search.solver import Problem, Solution, fastest, solve
from compiler.search.space import PRECISION, Choice, Literal, Space
from compiler.search.state import PER_RUN, State

CANDIDATES = 2  # options whose cost is read, for each that can be measured
HOPE = 1.5  # an option may turn out so many times better than expected


def first_singles(state: State) -> list[Choice]:
    """Return the single departures to measure first, as many as there is room for, the best expected first.

    Precisions come before structure: they are few, and a link's price shows only among all of them.
    Of the others those that cannot gain a hundredth of what is missing are left out (the bound of Lavin,
    "On the efficiency of convnets"). Of each site those options come first that are expected to save most;
    of what there may be room for the costs are read, and the best by saving for cost taken.
    """
    space, lab = state.space, state.lab
    literals = [g for g in space.literals() if state.possible(space.single(*g))]
    precise = [space.single(*g) for g in literals if space.sites[g[0]].method == PRECISION]
    others = [space.single(*g) for g in literals if space.sites[g[0]].method != PRECISION]
    outlook = lab.outlook
    if outlook is not None:
        gap = max(0.0, 1 - state.limit()) if state.trials or state.budget.ratio is not None else 0.0
        others = [c for c in others if outlook(c).most > gap / 100]
    left = state.left()
    room = None if left is None else max(1, left - state.limits.reserve)
    if outlook is not None and room is not None and len(precise) + len(others) > room:
        others = _spread(space, others, outlook)[: CANDIDATES * max(0, room - len(precise))]
        lab.costs(others)
        others.sort(key=lambda c: outlook(c).departure / max(lab.cost(c).mean, 1e-12))
    return [*precise, *others][:room]


def hoped(state: State) -> tuple[Literal, ...]:
    """Return the unmeasured options to measure in one run; none where no more could change the plan.

    They are those that the programme takes if they do as well as can be hoped, the best saving for its
    cost first. The last measurement that there may be is kept for the plan.
    """
    left = state.left()
    count = PER_RUN if left is None else min(PER_RUN, left - 1)
    missing = [g for g in state.unmeasured() if state.lab.outlook is not None]
    known, room = _structural_costs(state), CANDIDATES * count
    while missing and count > 0:
        taken = _taken(state, missing, known)
        unread = [g for g in taken if g not in known][:room]
        if not unread:
            read = [g for g in taken if g in known]
            return tuple(sorted(read, key=lambda g: known[g] / _saving(state, g))[:count])
        state.lab.costs([state.space.single(*g) for g in unread])
        known.update({g: state.lab.cost(state.space.single(*g)).mean for g in unread})
        room -= len(unread)
    return ()


def _taken(state: State, missing: Sequence[Literal], known: Mapping[Literal, float]) -> list[Literal]:
    """Return which of the missing options the programme takes, as they may be hoped to do."""
    problem = _hopeful(state, missing, known)
    solution: Solution | None = solve(problem) or fastest(dataclasses.replace(problem, limit=math.inf))
    taken = set(() if solution is None else state.space.taken(solution.choice))
    return [g for g in missing if g in taken]


def _hopeful(state: State, missing: Sequence[Literal], known: Mapping[Literal, float]) -> Problem:
    problem = state.problem(0.0)
    times, costs = [list(row) for row in problem.times], [list(row) for row in problem.costs]
    rate = statistics.median([known[g] / _saving(state, g) for g in known]) / HOPE if known else 0.0
    for g, o in missing:
        outlook = state.outlook((g, o))
        times[g][o] = max(-outlook.most, min(0.0, HOPE * outlook.departure))
        costs[g][o] = known.get((g, o), rate * _saving(state, (g, o)))
    return dataclasses.replace(
        problem, times=tuple(map(tuple, times)), costs=tuple(map(tuple, costs)), forbidden=frozenset()
    )


def _structural_costs(state: State) -> dict[Literal, float]:
    """Return the costs known of structural options."""
    taken = ((state.space.taken(t.choice), t.cost) for t in state.trials)
    alone = {gs[0]: cost.mean for gs, cost in taken if len(gs) == 1 and cost is not None}
    return {g: mean for g, mean in alone.items() if state.space.sites[g[0]].method != PRECISION}


def _saving(state: State, literal: Literal) -> float:
    return max(1e-6, -state.outlook(literal).departure)


def _spread(space: Space, singles: Sequence[Choice], outlook: Callable[[Choice], Outlook]) -> list[Choice]:
    """Return single departures in rounds, one of each site: the sites and options that save most first."""
    by_site: dict[int, list[Choice]] = {}
    for choice in sorted(singles, key=lambda c: outlook(c).departure):
        by_site.setdefault(space.taken(choice)[0][0], []).append(choice)
    rounds = itertools.zip_longest(*by_site.values())
    return [choice for taken in rounds for choice in taken if choice is not None]
