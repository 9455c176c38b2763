"""The search loop: measure, estimate costs, solve, build the winner, measure it, tighten, again.

1. The base (all sites kept), each uniform choice and each single departure are measured together.
   Where the base itself meets the budget it wins: it costs nothing. A budget of 1x asks for no more.
2. Costs of single departures are estimated and the latency model is fitted.
3. The integer programme is solved for the budget less a margin: 5% of the budget at first, and from
   the first end-to-end measurement on the error the model made there (measured upper bound less
   predicted time). A choice over budget widens the margin by at least its overshoot and is cut off.
4. The proposed choice is measured beside the base; whatever comes out is fed back to the model.

The loop ends when the programme proposes nothing cheaper than a choice that is known to meet the
budget, or after `most` trials. The winner is the measured choice of least estimated cost whose
upper confidence bound is within the budget. It is infeasible when the choice of least predicted
latency has been measured over budget and nothing else is predicted within.

Pure: costs and measurements come in as callables.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from compiler.errors import InfeasibleBudgetError
from compiler.search.budget import Budget
from compiler.search.latency import LatencyModel, Observation, fit_latency
from compiler.search.output_cost import CostEstimate
from compiler.search.solver import Problem, fastest, solve
from compiler.search.space import Choice, Space, initial_choices

FIRST_MARGIN = 0.05
_Z = 1.959963984540054  # half of a 95% interval in standard errors


@dataclass(frozen=True)
class Reading:
    """One choice as measured: its time over the base's of the same run, and its own time in ns.

    `low` and `high` bound each at 95%; `base_ns` is the base's median in that run. Where instructions
    are `counted`, they stand in the place of nanoseconds.
    """

    ratio: float
    ratio_low: float
    ratio_high: float
    median_ns: float
    low_ns: float
    high_ns: float
    base_ns: float
    counted: bool = False

    def shown(self, value: float) -> str:
        """Return a time, or a count of instructions, in words."""
        return f"{value / 1e6:.4g}M instructions" if self.counted else f"{value / 1e6:.3f} ms"

    @property
    def text(self) -> str:
        """The median with its interval, in words."""
        low, high = (f"{value / 1e6:.{4 if self.counted else 3}f}" for value in (self.low_ns, self.high_ns))
        return f"{self.shown(self.median_ns)} ({low} to {high})"

    def upper(self, budget: Budget) -> float:
        """Return the upper bound the budget is judged by, as a multiple of the base."""
        return self.ratio_high if budget.ratio is not None else self.high_ns / self.base_ns

    def within(self, budget: Budget) -> bool:
        """Tell whether the measured upper bound is within the budget."""
        return self.upper(budget) <= budget.limit(self.base_ns)


@dataclass(frozen=True)
class Trial:
    """A choice that was measured; `predicted` is the model's ratio before it was, None at the start."""

    choice: Choice
    reading: Reading
    cost: CostEstimate | None = None
    predicted: float | None = None


@dataclass(frozen=True)
class Outcome:
    """The winner, everything measured in order, and the last fitted model (None where none was needed)."""

    winner: Trial
    trials: tuple[Trial, ...]
    model: LatencyModel | None


Measure = Callable[[Sequence[Choice]], Mapping[Choice, Reading]]
Cost = Callable[[Choice], CostEstimate]
Note = Callable[[str], None]


def search_loop(
    space: Space, budget: Budget, measure: Measure, cost: Cost, most: int = 8, note: Note = lambda _: None
) -> Outcome:
    """Return the cheapest choice that was measured within the budget.

    `measure` takes the choices of one run and returns a reading for each; `most` bounds the trials
    after the first run. Raises InfeasibleBudgetError naming the least latency measured.
    """
    start = first_run(space, budget)
    readings = measure(start)
    state = _State(space, budget, [Trial(c, readings[c]) for c in start])
    if readings[space.base].within(budget):
        note("the base meets the budget as it is")
        return Outcome(state.trials[0], tuple(state.trials), None)
    state.trials = [_priced(t, space, cost) for t in state.trials]
    for _ in range(most):
        choice = state.propose()
        if choice is None:
            break
        predicted = state.model().predict(choice)
        reading = measure([choice])[choice]
        state.trials.append(Trial(choice, reading, cost(choice), predicted))
        note(_told(budget, predicted, reading))
    winner = state.best()
    if winner is None:
        raise InfeasibleBudgetError(_infeasible(space, budget, state.trials))
    return Outcome(winner, tuple(state.trials), state.model())


def propose(space: Space, budget: Budget, trials: Sequence[Trial]) -> Choice | None:
    """Return what the integer programme would measure next, None where there is nothing left worth it.

    The trials must hold every single departure from the base, each with its cost.
    """
    return _State(space, budget, list(trials)).propose()


def first_run(space: Space, budget: Budget) -> tuple[Choice, ...]:
    """Return what is measured first: the base alone where its own time is budget enough."""
    own = budget.ratio is not None and budget.ratio >= 1
    return (space.base,) if own else initial_choices(space)


def _priced(trial: Trial, space: Space, cost: Cost) -> Trial:
    return trial if trial.choice == space.base else dataclasses.replace(trial, cost=cost(trial.choice))


@dataclass
class _State:
    """What has been measured so far, and what follows from it; lives only inside `search_loop`."""

    space: Space
    budget: Budget
    trials: list[Trial]

    def propose(self) -> Choice | None:
        """Return the next choice to measure, None where there is nothing left worth it."""
        best = self.best()
        for margin in self._margins():
            problem = self._problem(margin)
            solution = solve(problem)
            if solution is not None and (best is None or solution.cost < problem.cost(best.choice)):
                return solution.choice
        if best is not None:
            return None  # nothing costs less than what is known to meet the budget
        last = solve(self._problem(0.0)) or fastest(self._problem(0.0, cut=False))
        measured = last is None or any(t.choice == last.choice for t in self.trials)
        return None if last is None or measured else last.choice

    def model(self) -> LatencyModel:
        """Return the latency model fitted to every choice measured but the base, which it is relative to."""
        seen = [t for t in self.trials if t.choice != self.space.base]
        return fit_latency(self.space, [_observation(t) for t in seen])

    def best(self) -> Trial | None:
        """Return the trial of least cost within the budget, the faster of equals."""
        fits = [t for t in self.trials if t.reading.within(self.budget)]
        return min(fits, key=lambda t: (t.cost.mean if t.cost else 0.0, t.reading.ratio), default=None)

    def _problem(self, margin: float, cut: bool = True) -> Problem:
        model = self.model()
        over = frozenset(t.choice for t in self.trials if not t.reading.within(self.budget))
        limit = self._limit() - margin - 1  # the base is the fixed part: 1, in its own units
        costs = self._costs()
        return Problem(costs, model.times, model.boundaries(), limit, forbidden=over if cut else frozenset())

    def _costs(self) -> tuple[tuple[float, ...], ...]:
        means = {t.choice: t.cost.mean for t in self.trials if t.cost is not None}
        space = self.space
        return tuple(
            (0.0, *(means[space.single(g, o)] for o in range(1, len(site.options))))
            for g, site in enumerate(space.sites)
        )

    def _limit(self) -> float:
        return self.budget.limit(self.trials[-1].reading.base_ns)

    def _margins(self) -> tuple[float, ...]:
        """Return the margins to try: the error last observed, then the first margin where that is less.

        One odd choice must not end the search: it is cut off, and others may run as predicted.
        """
        first = FIRST_MARGIN * self._limit()
        errors = [t.reading.upper(self.budget) - t.predicted for t in self.trials if t.predicted is not None]
        if not errors:
            return (first,)
        return (errors[-1], first) if errors[-1] > first else (max(0.0, errors[-1]),)


def _observation(trial: Trial) -> Observation:
    reading = trial.reading
    return Observation(trial.choice, reading.ratio, (reading.ratio_high - reading.ratio_low) / (2 * _Z))


def _told(budget: Budget, predicted: float, reading: Reading) -> str:
    verdict = "within" if reading.within(budget) else "over"
    return (
        f"predicted {predicted:.3f}x, measured {reading.ratio:.3f}x "
        f"({reading.shown(reading.median_ns)}): {verdict} budget"
    )


def _infeasible(space: Space, budget: Budget, trials: Sequence[Trial]) -> str:
    least = min(trials, key=lambda t: t.reading.upper(budget))
    reading = least.reading
    taken = [d for d in space.plan(least.choice).decisions if d.option != space.sites[0].options[0]]
    plan = ", ".join(f"{d.site} {d.option}" for d in taken) or "everything kept as it is"
    base = f"the merged float model takes {reading.shown(reading.base_ns)}"
    return (
        f"no variant meets the latency budget {budget}. The least latency measured is "
        f"{reading.text}, "
        f"{reading.ratio:.3f}x of the merged float model (95%: {reading.ratio_low:.3f} to "
        f"{reading.ratio_high:.3f}; {base} in that run), with {plan}."
    )
