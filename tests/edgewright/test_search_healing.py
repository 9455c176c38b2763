"""The last step of a search: what heals the winner is kept where samples that had no say agree."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from compiler.compress import healing
from compiler.compress.heal import corrected
from compiler.compress.heal.train import with_constants
from compiler.plan import parse_plan
from compiler.search.budget import parse_budget
from compiler.search.experiments import MeasurementBudget
from edgewright import search_healing
from tests.edgewright.test_searching import calibrations, run, setting

__all__ = ["calibrations", "setting"]  # fixtures

pytestmark = pytest.mark.target


def moved(graph, original, parts, seed):
    """Move every bias far off."""
    biases = [b for n in graph.ops() if (b := n.operand("bias")) is not None]
    return with_constants(graph, {b.node: graph.constant(b) + 5 for b in biases})


HARM = SimpleNamespace(NAME="harm", refusal=lambda *_: None, heal=moved)
ABLE_TO_NOTHING = SimpleNamespace(NAME="idle", refusal=lambda *_: "it has no norm", heal=None)


@pytest.fixture
def few(setting):
    """A search of few measurements and no repair."""
    return replace(setting, limits=MeasurementBudget(4, trials=1, repairs=0))


@pytest.fixture
def healers(monkeypatch, calibrations):
    def put(*made):
        for module in (search_healing, healing):
            monkeypatch.setattr(module, "HEALERS", made)

    return put


def test_what_lowers_the_cost_on_the_second_half_is_kept_and_measured(few, healers):
    told = []
    healers(ABLE_TO_NOTHING, HARM, corrected)
    result = run(replace(few, progress=told.append))
    winner = result.outcome.winner
    assert winner.heals == (corrected.NAME,)
    plain = next(t for t in result.outcome.trials if t.choice == winner.choice and not t.heals)
    assert winner is result.outcome.trials[-1] and winner.reading.ratio_high <= 0.8
    assert winner.predicted == plain.reading.ratio
    assert any("not healed by idle: idle heals nothing here: it has no norm" in line for line in told)
    assert any(line.startswith("heal by harm") for line in told)
    plan = parse_plan((few.out / "plan.txt").read_text())
    assert healing.healers_of(plan) == (corrected.NAME,)


def test_what_raises_it_is_not(few, healers):
    healers(HARM)
    result = run(few)
    assert result.outcome.winner.heals == () and not any(t.heals for t in result.outcome.trials)


def test_a_float_winner_is_left_as_it_is(few, healers):
    healers(HARM, corrected)
    assert run(replace(few, budget=parse_budget("1x"))).outcome.winner.heals == ()
