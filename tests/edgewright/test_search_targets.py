"""A search on each runtime of a profile: one budget for all, and the best of what they found."""

import json
from dataclasses import dataclass, replace

import pytest

from compiler.compress.quantize import quantized_nodes
from compiler.errors import (
    InfeasibleBudgetError,
    UnstableMeasurementError,
    UnsupportedModelError,
    UsageError,
)
from compiler.plan import parse_plan
from compiler.search.budget import parse_budget
from compiler.search.experiments import MeasurementBudget
from devices.benchmark import measure
from edgewright import search_targets
from edgewright.search_samples import halve
from edgewright.search_targets import Runtime, run_targets
from edgewright.searching import check_out, search
from tests.edgewright.test_searching import FLOAT_NS, Clock, Paper, calibrations, images, prepared, setting

__all__ = ["calibrations", "setting"]  # fixtures

pytestmark = pytest.mark.target


@dataclass
class Cardboard(Paper):
    """A runtime slower in float and quicker in int8 than paper."""

    name: str = "cardboard"

    def lower(self, methods, profile, folder):
        lowered = super().lower(methods, profile, folder)
        graph = methods["forward"]
        weighted = [n for n in quantized_nodes(graph) if graph.node(n).operand("weight") is not None]
        ns = 1.2 * FLOAT_NS - 140_000 * len(weighted)
        (folder / "program.json").write_text(json.dumps({"ns": ns}))
        return lowered


@dataclass
class Stone(Paper):
    """A runtime that takes nothing."""

    name: str = "stone"

    def lower(self, methods, profile, folder):
        raise UnsupportedModelError("stone has no convolution")


@pytest.fixture
def searched(setting):
    """Search within a budget on runtimes, in turn."""

    def run(budget, *targets, **changes):
        own = replace(setting, **{"limits": MeasurementBudget(9, trials=3, repairs=0), **changes})
        runtimes = [
            Runtime(prepared(), replace(own, target=t, out=own.out / "targets" / t.name)) for t in targets
        ]
        return run_targets(runtimes, halve(prepared().graph, images(24)), parse_budget(budget), own.out)

    return run


@pytest.mark.parametrize(("budget", "best"), [("0.95x", "paper"), ("0.5x", "cardboard")])
def test_the_runtime_whose_winner_costs_least_is_kept(searched, setting, budget, best):
    made = searched(budget, Paper(), Cardboard())
    assert made.best.target == best
    assert made.best.confirmed.mean == min(s.confirmed.mean for s in made.standings if s.result)
    out = setting.out
    assert parse_plan((out / "plan.txt").read_text()) == made.best.result.plan
    assert json.loads((out / "artifact" / "manifest.json").read_text())["target"] == best
    rows = json.loads((out / "targets.json").read_text())["targets"]
    assert [r["target"] for r in rows] == ["paper", "cardboard"]
    assert "| cardboard | 1.200x of the fastest |" in (out / "targets.md").read_text()
    document = made.document()
    assert document["out"] == str(out) and f"target: {best}" in document["summary"][0]
    json.dumps(document, allow_nan=False)
    check_out(out)
    assert sorted(p.name for p in (out / "targets").iterdir()) == ["cardboard", "paper"]
    assert not list(out.glob("**/work"))


def test_a_ratio_is_of_the_fastest_runtime_s_float_model(searched):
    limits = MeasurementBudget(1)  # everything in int8
    paper, cardboard = searched("0.9x", Paper(), Cardboard(), limits=limits).standings
    assert (paper.slower, cardboard.slower) == (1.0, pytest.approx(1.2))
    assert paper.budget.ratio == pytest.approx(0.9) and cardboard.budget.ratio == pytest.approx(0.75)
    assert cardboard.result.outcome.winner.reading.median_ns <= 0.9 * FLOAT_NS
    assert {str(s.budget) for s in searched("0.9ms", Paper(), limits=limits).standings} == {"0.9ms"}


def test_a_runtime_that_refuses_the_model_is_told_and_the_others_are_searched(searched):
    made = searched("0.9x", Stone(), Paper())
    assert made.best.target == "paper"
    assert made.standings[0].reason == "stone has no convolution"
    assert "stone: stone has no convolution" in made.document()["summary"]
    with pytest.raises(UnsupportedModelError, match=r"'paper' meets the budget 0.9x: stone: stone has"):
        searched("0.9x", Stone())


def test_float_models_that_cannot_be_compared_are_told(searched, monkeypatch):
    def measured(candidates, device, profile, database, tell):
        found = measure(candidates, device, profile, database, tell)
        spoilt = [replace(r, throttled=True) for r in found[1].rounds]
        return [found[0], replace(found[1], rounds=tuple(spoilt))]

    monkeypatch.setattr(search_targets, "measure", measured)
    with pytest.raises(
        UnstableMeasurementError, match="models on paper, cardboard cannot be compared on clock"
    ):
        searched("0.9x", Paper(), Cardboard())


def test_a_budget_that_none_meets_says_what_each_came_to(searched, setting):
    with pytest.raises(InfeasibleBudgetError, match=r"budget 0.01x: paper: no variant .* cardboard: no"):
        searched("0.01x", Paper(), Cardboard())
    assert not (setting.out / "artifact").exists() and not (setting.out / "targets.json").exists()


def test_an_interrupted_search_goes_on_where_it_stopped(searched, setting):
    whole = [Paper(), Cardboard()]
    limits = MeasurementBudget(2, trials=1, repairs=0)
    searched("0.9x", *whole, out=setting.out.with_name("whole"), limits=limits)
    device, first = Clock(stop_at=None), [Paper(), Cardboard(stop_at=2)]
    with pytest.raises(KeyboardInterrupt):
        searched("0.9x", *first, device=device, limits=limits)
    check_out(setting.out)
    second = [Paper(), Cardboard()]
    made = searched("0.9x", *second, device=device, limits=limits)
    assert not second[0].lowered  # the first runtime was done
    assert sorted(first[1].lowered + second[1].lowered) == sorted(whole[1].lowered)
    assert all(s.result is not None for s in made.standings)


@pytest.mark.parametrize("option", [{"sweep": "0.9x"}, {"latency_budget": "0.9x", "warm_start": "out"}])
def test_what_is_of_one_target_asks_for_its_name(option, tmp_path):
    with pytest.raises(UsageError, match="is of one target: name it in place of --target auto"):
        search("timm:resnet18", target="auto", out=tmp_path / "out", calibration=images(2), **option)
