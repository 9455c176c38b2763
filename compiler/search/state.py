"""What a search knows so far, and what follows from it: the model, the best trial, the next questions."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from compiler.search.budget import Budget
from compiler.search.experiments import Experiments, MeasurementBudget, Note, Outlook
from compiler.search.latency import LatencyModel, Observation, fit_latency
from compiler.search.solver import Problem, Solution, fastest, solve
from compiler.search.space import PRECISION, Choice, Literal, Space
from compiler.search.trial import Reading, Trial

FIRST_MARGIN = 0.05
PER_RUN = 16  # choices that are measured side by side: each holds a runner on the device
CANDIDATES = 2  # options whose cost is read at first, for each that is measured
HOPE = 1.5  # an option may turn out so many times better than expected
_Z = 1.959963984540054  # half of a 95% interval in standard errors

Watch = Callable[[Sequence[Trial]], None]


@dataclass
class State:
    """The trials of a search and what cannot be tried; lives only inside one search."""

    space: Space
    budget: Budget
    lab: Experiments
    limits: MeasurementBudget
    note: Note
    most_bytes: float = math.inf
    trials: list[Trial] = field(default_factory=list)
    cuts: set[frozenset[Literal]] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    watch: Watch = lambda _: None

    @property
    def base(self) -> Trial:
        """The trial of the base, which is measured first."""
        return next(t for t in self.trials if t.choice == self.space.base)

    def left(self) -> int | None:
        """Return how many more choices may be measured, None for any number."""
        measured = [t for t in self.trials if t.choice != self.space.base]
        return self.limits.left(len(measured), sum(t.reading.seconds for t in self.trials))

    def measure(self, choices: Iterable[Choice], priced: bool = True) -> None:
        """Measure choices that were not yet, side by side, as many as may still be."""
        known = {t.choice for t in self.trials}
        new = [c for c in dict.fromkeys(choices) if c not in known and self.possible(c)]
        while new:
            left = self.left()
            count = PER_RUN if left is None else min(PER_RUN, left + (new[0] == self.space.base))
            run, new = new[:count], new[count:]
            if not run:
                return
            readings = self.lab.measure(run)
            self.trials += [self._trial(c, readings[c], None, priced) for c in run]
            if priced:
                self.watch(tuple(self.trials))

    def trial(self, choice: Choice) -> Trial:
        """Measure one whole plan and compare it with what the model expected."""
        predicted = self.model().predict(choice)
        reading = self.lab.measure([choice])[choice]
        made = self._trial(choice, reading, predicted if math.isfinite(predicted) else None, True)
        self.trials.append(made)
        self.watch(tuple(self.trials))
        return made

    def price(self) -> None:
        """Read the costs of what was measured before it was known that they are needed."""
        self.trials = [self._trial(t.choice, t.reading, t.predicted, True) for t in self.trials]
        self.watch(tuple(self.trials))

    def possible(self, choice: Choice) -> bool:
        """Tell whether a choice can be built, and remember what in it cannot."""
        taken = frozenset(self.space.taken(choice))
        if any(cut <= taken for cut in self.cuts):
            return False
        reason = self.lab.refuses(choice)
        if reason is not None:
            self.cuts.add(self._blamed(choice))
            self.refused.append(reason)
            self.note(f"left out: {reason}")
        return reason is None

    def model(self) -> LatencyModel:
        """Return the latency model fitted to every choice measured but the base, which it is relative to."""
        seen = [_observation(t) for t in self.trials if t.choice != self.space.base]
        missing = [] if self.lab.outlook is None else self.unmeasured()
        return fit_latency(self.space, seen, {g: self._outlook(g).departure for g in missing})

    def unmeasured(self) -> list[Literal]:
        """Return the options that were not measured alone and are not known to be impossible."""
        known = {t.choice for t in self.trials}
        ruled = {g for cut in self.cuts if len(cut) == 1 for g in cut}
        return [g for g in self.space.literals() if g not in ruled and self.space.single(*g) not in known]

    def fits(self, trial: Trial) -> bool:
        """Tell whether a trial is within the limits on time and size."""
        return trial.reading.within(self.budget) and (trial.bytes or 0) <= self.most_bytes

    def best(self) -> Trial | None:
        """Return the trial of least cost within the limits that nothing is against, the faster of equals."""
        within = sorted((t for t in self.trials if self.fits(t)), key=lambda t: t.price)
        return next((t for t in within if self._passes(t)), None)

    def limit(self) -> float:
        """Return the budget as a multiple of the base's latest time."""
        return self.budget.limit(self.trials[-1].reading.base_ns if self.trials else math.nan)

    def margins(self) -> tuple[float, ...]:
        """Return the margins to try: the error last observed, then the first margin where that is less.

        One odd choice must not end the search: it is cut off, and others may run as predicted.
        """
        first = FIRST_MARGIN * self.limit()
        errors = [t.reading.upper(self.budget) - t.predicted for t in self.trials if t.predicted is not None]
        if not errors:
            return (first,)
        return (errors[-1], first) if errors[-1] > first else (max(0.0, errors[-1]),)

    def problem(self, margin: float, cut: bool = True) -> Problem:
        """Return the programme for the budget less a margin; with `cut`, without what was over it."""
        model = self.model()
        over = frozenset(t.choice for t in self.trials if not (self.fits(t) and self._passes(t)))
        limit = self.limit() - margin - 1  # the base is the fixed part: 1, in its own units
        return Problem(
            self._costs(),
            model.times,
            model.boundaries(),
            limit,
            sizes=self._sizes() if cut else (),
            most_bytes=self.most_bytes - (self.base.bytes or 0) if cut else math.inf,
            forbidden=over if cut else frozenset(),
            cuts=frozenset(self.cuts),
        )

    def propose(self) -> Choice | None:
        """Return the next choice to measure, None where there is nothing left worth it."""
        best = self.best()
        for margin in self.margins():
            problem = self.problem(margin)
            solution = solve(problem)
            if solution is not None and (best is None or solution.cost < problem.cost(best.choice)):
                return solution.choice
        if best is not None:
            return None  # nothing costs less than what is known to meet the budget
        last = solve(self.problem(0.0)) or fastest(self.problem(0.0, cut=False))
        measured = last is None or any(t.choice == last.choice for t in self.trials)
        return None if last is None or measured else last.choice

    def hoped(self, count: int) -> tuple[Literal, ...]:
        """Return at most `count` unmeasured options that the programme takes if they do as hoped.

        What is not among them is not expected to change the plan, and need not be measured. Nor is a cost
        read before the programme takes the option: until then it is what others cost that save as much,
        at the median rate, and may turn out better. Costs of `CANDIDATES * count` are read at most.
        """
        missing = [g for g in self.unmeasured() if self.lab.outlook is not None]
        known, room = self._structural_costs(), CANDIDATES * count
        while missing and count > 0:
            problem = self._hopeful(missing, known)
            solution: Solution | None = solve(problem) or fastest(
                dataclasses.replace(problem, limit=math.inf)
            )
            taken = set(() if solution is None else self.space.taken(solution.choice))
            hoped = [g for g in missing if g in taken]
            unread = [g for g in hoped if g not in known][:room]
            if not unread:
                read = [g for g in hoped if g in known]
                return tuple(sorted(read, key=lambda g: known[g] / self._saving(g))[:count])
            self.lab.costs([self.space.single(*g) for g in unread])
            known.update({g: self.lab.cost(self.space.single(*g)).mean for g in unread})
            room -= len(unread)
        return ()

    def _structural_costs(self) -> dict[Literal, float]:
        """Return the costs known of structural options."""
        taken = ((self.space.taken(t.choice), t.cost) for t in self.trials)
        alone = {gs[0]: cost.mean for gs, cost in taken if len(gs) == 1 and cost is not None}
        return {g: mean for g, mean in alone.items() if self.space.sites[g[0]].method != PRECISION}

    def _saving(self, literal: Literal) -> float:
        return max(1e-6, -self._outlook(literal).departure)

    def _hopeful(self, missing: Sequence[Literal], known: Mapping[Literal, float]) -> Problem:
        problem = self.problem(0.0)
        times, costs = [list(row) for row in problem.times], [list(row) for row in problem.costs]
        rate = statistics.median([known[g] / self._saving(g) for g in known]) / HOPE if known else 0.0
        for g, o in missing:
            outlook = self._outlook((g, o))
            times[g][o] = max(-outlook.most, min(0.0, HOPE * outlook.departure))
            costs[g][o] = known.get((g, o), rate * self._saving((g, o)))
        return dataclasses.replace(
            problem, times=tuple(map(tuple, times)), costs=tuple(map(tuple, costs)), forbidden=frozenset()
        )

    def _outlook(self, literal: Literal) -> Outlook:
        assert self.lab.outlook is not None
        return self.lab.outlook(self.space.single(*literal))

    def _trial(self, choice: Choice, reading: Reading, predicted: float | None, priced: bool) -> Trial:
        priced = priced and choice != self.space.base
        size = self.lab.size(choice) if self.lab.size is not None else None
        return Trial(choice, reading, self.lab.cost(choice) if priced else None, predicted, size)

    def _passes(self, trial: Trial) -> bool:
        return trial.choice == self.space.base or self.lab.gate(trial.choice) is None

    def _blamed(self, choice: Choice) -> frozenset[Literal]:
        """Return the least part of a refused choice's structure that is refused by itself."""
        taken = self.space.structural(choice) or self.space.taken(choice)
        for pair in itertools.combinations(taken, 2):
            if len(taken) > 2 and self.lab.refuses(self.space.joint(pair)) is not None:
                return frozenset(pair)
        return frozenset(taken)

    def _costs(self) -> tuple[tuple[float, ...], ...]:
        means = {t.choice: t.cost.mean for t in self.trials if t.cost is not None}

        def cost(g: int, o: int) -> float:
            return means.get(self.space.single(g, o), math.inf) if o else 0.0

        return tuple(tuple(cost(g, o) for o in range(len(s.options))) for g, s in enumerate(self.space.sites))

    def _sizes(self) -> tuple[tuple[float, ...], ...]:
        known = {t.choice: t.bytes for t in self.trials if t.bytes is not None}
        own = self.base.bytes or 0

        def size(g: int, o: int) -> float:
            return float(known.get(self.space.single(g, o), own) - own) if o else 0.0

        return tuple(tuple(size(g, o) for o in range(len(s.options))) for g, s in enumerate(self.space.sites))


def first_singles(state: State) -> list[Choice]:
    """Return the single departures to measure first, as many as there is room for, the best expected first.

    Precisions come before structure: they are few, and a link's price shows only among all of them.
    Of the others those that cannot gain a hundredth of what is missing are left out (the bound of Lavin,
    "On the efficiency of convnets"). Of each site those options come first that are expected to save most;
    the costs of `CANDIDATES` times what there is room for are read, and the best by saving for cost taken.
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


def _spread(space: Space, singles: Sequence[Choice], outlook: Callable[[Choice], Outlook]) -> list[Choice]:
    """Return single departures in rounds, one of each site: the sites and options that save most first."""
    by_site: dict[int, list[Choice]] = {}
    for choice in sorted(singles, key=lambda c: outlook(c).departure):
        by_site.setdefault(space.taken(choice)[0][0], []).append(choice)
    rounds = itertools.zip_longest(*by_site.values())
    return [choice for taken in rounds for choice in taken if choice is not None]


def _observation(trial: Trial) -> Observation:
    reading = trial.reading
    return Observation(trial.choice, reading.ratio, (reading.ratio_high - reading.ratio_low) / (2 * _Z))
