"""What a search knows so far, and what follows from it: the model, the best trial, the next plan."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from compiler.search.budget import Budget
from compiler.search.experiments import Experiments, MeasurementBudget, Note, Outlook
from compiler.search.few_shot import factor
from compiler.search.latency import LatencyModel, Observation, fit_latency
from compiler.search.solver import Problem, fastest, solve
from compiler.search.space import PRECISION, Choice, Literal, Space
from compiler.search.trial import Reading, Trial

FIRST_MARGIN = 0.05
PER_RUN = 16  # choices that are measured side by side: each holds a runner on the device
CLEARLY_SLOWER = 1.1  # times the base, at the lower end of the interval
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
    _corrected: dict[tuple[str, int], float] = field(default_factory=dict)

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

    def rule_out(self) -> None:
        """Leave out precisions that, everywhere they can be, took clearly longer than the base.

        Not where the size of programs is bounded: a slow precision may be the smallest.
        """
        if math.isfinite(self.most_bytes):
            return
        ratios = {t.choice: t.reading.ratio_low for t in self.trials}
        for option in dict.fromkeys(
            o for s in self.space.sites if s.method == PRECISION for o in s.options[1:]
        ):
            ratio = ratios.get(self.space.uniform(option), 0.0)
            if ratio > CLEARLY_SLOWER:
                self.cuts |= {frozenset([g]) for g in self.space.literals() if self.space.option(g) == option}
                self.note(f"left out: {option} takes {ratio:.2f}x or more where all is in it that can be")

    def model(self) -> LatencyModel:
        """Return the latency model fitted to every choice measured but the base, which it is relative to."""
        seen = [_observation(t) for t in self.trials if t.choice != self.space.base]
        missing = [] if self.lab.outlook is None else self.unmeasured()
        return fit_latency(self.space, seen, {g: self.outlook(g).departure for g in missing})

    def unmeasured(self) -> list[Literal]:
        """Return the options that were not measured alone and are not known to be impossible."""
        known = {t.choice for t in self.trials}
        ruled = {g for cut in self.cuts if len(cut) == 1 for g in cut}
        return [g for g in self.space.literals() if g not in ruled and self.space.single(*g) not in known]

    def outlook(self, literal: Literal) -> Outlook:
        """Return what is expected of an option alone, corrected by what was measured of its kind."""
        expected = self._expected(literal)
        corrected = self._factor(self.space.sites[literal[0]].method) * expected.departure
        return dataclasses.replace(expected, departure=corrected)

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

    def _trial(self, choice: Choice, reading: Reading, predicted: float | None, priced: bool) -> Trial:
        priced = priced and choice != self.space.base
        size = self.lab.size(choice) if self.lab.size is not None else None
        return Trial(choice, reading, self.lab.cost(choice) if priced else None, predicted, size)

    def _expected(self, literal: Literal) -> Outlook:
        assert self.lab.outlook is not None
        return self.lab.outlook(self.space.single(*literal))

    def _factor(self, method: str) -> float:
        """Return how much more or less than expected a method's options changed, measured alone."""
        key = (method, len(self.trials))
        if key not in self._corrected:
            pairs = []
            for trial in self.trials:
                taken = self.space.taken(trial.choice)
                if len(taken) == 1 and self.space.sites[taken[0][0]].method == method:
                    pairs.append((self._expected(taken[0]).departure, trial.reading.ratio - 1))
            self._corrected[key] = factor(pairs)
        return self._corrected[key]

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


def _observation(trial: Trial) -> Observation:
    reading = trial.reading
    return Observation(trial.choice, reading.ratio, (reading.ratio_high - reading.ratio_low) / (2 * _Z))
