"""The search loop: measure, estimate costs, solve, build the winner, measure it, tighten, again.

1. The base (all sites kept), each uniform precision and the single departures are measured together,
   as many as the measurements allow (`acquisition.first_singles`); of several precisions the uniform
   ones are first, and one that takes clearly longer than the base is left out. Where the base itself
   meets the budget it wins: it costs nothing. A budget of 1x asks for no more.
2. Costs of single departures are estimated and the latency model is fitted.
3. Where options were left out, those are measured that would change the plan if they did as well as can
   be hoped; what would not is never measured.
4. The integer programme is solved for the budget less a margin: 5% of the budget at first, and from
   the first end-to-end measurement on the error the model made there (measured upper bound less
   predicted time). A choice over budget widens the margin by at least its overshoot and is cut off.
5. The proposed choice is measured beside the base; whatever comes out is fed back to the model.
6. The winner is repaired by swaps (`repair`), and what they make of it is measured before it may win.

Proposals end when the programme has nothing cheaper than a choice that is known to meet the budget, or
the measurements are spent. The winner is the measured choice of least estimated cost whose upper
confidence bound is within the budget. It is infeasible when the choice of least predicted latency has
been measured over budget and nothing else is predicted within. Another strategy than the integer
programme takes its place in 3 and 4; all else stays.

Pure: costs and measurements come in as callables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

from compiler.errors import InfeasibleBudgetError
from compiler.search.acquisition import first_singles, hoped
from compiler.search.budget import Budget
from compiler.search.experiments import Experiments, MeasurementBudget, Note
from compiler.search.repair import repair
from compiler.search.space import Choice, Space, initial_choices, uniform_choices
from compiler.search.state import State, Watch
from compiler.search.trial import Outcome, Reading, Trial

__all__ = ["Outcome", "Reading", "Trial", "first_run", "propose", "search_loop"]

Propose = Callable[[Sequence[Trial], Collection[Choice]], Choice | None]
REFUSALS = 50  # proposals that cannot be built, before a search gives up proposing


def search_loop(
    space: Space,
    budget: Budget,
    lab: Experiments,
    limits: MeasurementBudget | None = None,
    *,
    most_bytes: float = math.inf,
    known: Sequence[Trial] = (),
    propose: Propose | None = None,
    note: Note = lambda _: None,
    watch: Watch = lambda _: None,
) -> Outcome:
    """Return the cheapest choice that was measured within the budget.

    Args:
        space: what there is to choose from.
        budget: what the winner's upper confidence bound has to be within.
        lab: measures, and reads costs.
        limits: how much may be measured.
        most_bytes: the most the winner's program may take.
        known: trials of an earlier search in the same space, which are not made again.
        propose: another strategy than the integer programme: the next choice, given all trials and the
            choices that were proposed and could not be built.
        note: called with what happens.
        watch: called with all trials when there are more of them.

    Raises InfeasibleBudgetError naming the least latency measured.
    """
    limits = limits or MeasurementBudget()
    state = State(space, budget, lab, limits, note, most_bytes, list(known), watch=watch)
    if _start(state):
        note("the base meets the budget as it is")
        return Outcome(state.base, tuple(state.trials), None)
    state.price()
    made = 0
    refused: list[Choice] = []
    for _ in range(REFUSALS):
        if made == state.limits.trials or state.left() == 0:
            break
        choice = propose(tuple(state.trials), tuple(refused)) if propose is not None else _programme(state)
        if choice is None:
            break
        if any(t.choice == choice for t in state.trials) or not state.possible(choice):
            refused.append(choice)
        else:
            state.trial(choice)
            made += 1
    winner = state.best()
    if winner is None:
        raise InfeasibleBudgetError(_infeasible(state))
    if propose is None and any(winner.choice):
        winner = repair(state, winner)
    return Outcome(winner, tuple(state.trials), state.model(), tuple(state.refused), len(state.unmeasured()))


def propose(space: Space, budget: Budget, trials: Sequence[Trial]) -> Choice | None:
    """Return what the integer programme would measure next, None where there is nothing left worth it.

    An option is proposed where the trials hold its single departure from the base, with its cost.
    """

    def never(_: object) -> Any:
        raise AssertionError("a proposal asks for nothing")

    lab = Experiments(never, never)
    return State(space, budget, lab, MeasurementBudget(), lambda _: None, trials=list(trials)).propose()


def enough_alone(budget: Budget, most_bytes: float = math.inf) -> bool:
    """Tell whether the base is within the limits whatever it takes, so that nothing else is measured."""
    return budget.ratio is not None and budget.ratio >= 1 and math.isinf(most_bytes)


def first_run(space: Space, budget: Budget) -> tuple[Choice, ...]:
    """Return what is measured first where there is room for everything."""
    return (space.base,) if enough_alone(budget) else initial_choices(space)


def _start(state: State) -> bool:
    """Make the first runs; tell whether the base is good enough as it is."""
    space = state.space
    alone = enough_alone(state.budget, state.most_bytes)
    opening = [] if alone else list(uniform_choices(space))
    left = state.left()
    short = left is not None and opening and len(opening) + len(space.literals()) > left
    if short or len(opening) > 1:
        # What to measure depends on what the base takes, and on which precisions gain at all.
        state.measure([space.base, *opening], priced=False)
        if state.fits(state.base):
            return True
        state.rule_out()
    singles = [] if alone else first_singles(state)
    state.measure([space.base, *opening, *singles], priced=False)
    return state.fits(state.base)


def _programme(state: State) -> Choice | None:
    """Measure the single options that could change the plan, then return the plan to try."""
    while options := hoped(state):
        state.measure(state.space.single(*g) for g in options)
    return state.propose()


def _infeasible(state: State) -> str:
    """Return what to tell where no trial may win: the least latency, size, or what is against it."""
    space, budget = state.space, state.budget
    within = [t for t in state.trials if state.fits(t)]
    if within:
        first = min(within, key=lambda t: t.price)
        reason = state.lab.gate(first.choice)
        return f"{len(within)} variants meet the latency budget {budget}, and none may win: {reason}"
    in_time = [t for t in state.trials if t.reading.within(budget)]
    if in_time:
        least_bytes = min(t.bytes or 0 for t in in_time)
        return (
            f"no variant within the latency budget {budget} has a program of {state.most_bytes:.0f} bytes or "
            f"less; the smallest measured has {least_bytes}"
        )
    least = min(state.trials, key=lambda t: t.reading.upper(budget))
    reading = least.reading
    taken = [space.sites[g] for g, _ in space.taken(least.choice)]
    options = [site.options[o] for site, (_, o) in zip(taken, space.taken(least.choice), strict=True)]
    plan = (
        ", ".join(f"{s.name} {o}" for s, o in zip(taken, options, strict=True)) or "everything kept as it is"
    )
    base = f"the merged float model takes {reading.shown(reading.base_ns)}"
    return (
        f"no variant meets the latency budget {budget}. The least latency measured is "
        f"{reading.text}, "
        f"{reading.ratio:.3f}x of the merged float model (95%: {reading.ratio_low:.3f} to "
        f"{reading.ratio_high:.3f}; {base} in that run), with {plan}."
    )
