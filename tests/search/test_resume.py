"""A search stopped anywhere, again and again, ends with the plan of the undisturbed one and repeats nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from compiler.search.budget import parse_budget
from compiler.search.experiments import Experiments, MeasurementBudget
from compiler.search.journal import Journal
from compiler.search.loop import search_loop
from compiler.search.output_cost import CostEstimate
from compiler.search.space import Choice
from compiler.search.trial import Outcome, Reading
from tests.search.landscape import Landscape

BUDGET = parse_budget("0.55x")
LIMITS = MeasurementBudget(30)


class Stopped(Exception):
    """Somebody pulled the plug."""


class Kept:
    """A landscape whose answers are journalled, and that stops before the n-th answer is written."""

    def __init__(self, path: Path, stop_at: int | None) -> None:
        self.world = Landscape(5, segments=5, structural=4, curved=0.03, clash=frozenset({(0, 1)}))
        self.journal = Journal(path, {"model": "made up"})
        self.stop_at, self.answers = stop_at, 0

    def _answer(self, make, *key):
        if self.journal.get(*key) is None:
            value = make()
            if self.answers == self.stop_at:
                raise Stopped
            self.answers += 1
            self.journal.put(value, *key)
        return self.journal.get(*key)

    def measure(self, choices: Sequence[Choice]) -> Mapping[Choice, Reading]:
        def make():
            return [asdict(r) for r in self.world.measure(choices).values()]

        found = self._answer(make, "measure", *map(str, choices))
        return {c: Reading(**r) for c, r in zip(choices, found, strict=True)}

    def cost(self, choice: Choice) -> CostEstimate:
        return CostEstimate(**self._answer(lambda: asdict(self.world.cost(choice)), "cost", str(choice)))

    def second(self, choice: Choice) -> CostEstimate:
        return CostEstimate(**self._answer(lambda: asdict(self.world.second(choice)), "second", str(choice)))

    def run(self) -> Outcome:
        world = self.world
        lab = Experiments(self.measure, self.cost, self.second, None, world.outlook, world.refuses)
        return search_loop(world.space, BUDGET, lab, LIMITS)


def test_stopped_at_twenty_random_points_it_ends_with_the_same_plan(tmp_path: Path) -> None:
    whole = Kept(tmp_path / "whole.jsonl", None)
    undisturbed = whole.run()
    assert whole.answers > 30
    points = np.random.default_rng(0).choice(whole.answers, 20, replace=False)
    for point in map(int, points):
        path = tmp_path / f"{point}.jsonl"
        first = Kept(path, point)
        with pytest.raises(Stopped):
            first.run()
        again = Kept(path, None)
        outcome = again.run()
        assert outcome == undisturbed
        assert first.answers + again.answers == whole.answers


def test_stopped_before_every_answer_in_turn_it_measures_nothing_twice(tmp_path: Path) -> None:
    undisturbed = Kept(tmp_path / "whole.jsonl", None).run()
    path, runs = tmp_path / "steps.jsonl", 0
    while True:
        step = Kept(path, 3)  # three answers at a time
        try:
            outcome = step.run()
        except Stopped:
            runs += 1
            continue
        break
    assert runs > 10
    assert outcome == undisturbed
    measured = [t.choice for t in outcome.trials]
    assert len(measured) == len(set(measured))
