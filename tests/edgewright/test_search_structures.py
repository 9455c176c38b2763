"""A search over a structural method and precision together, with sweeps, sizes, labels and healing."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from compiler.compress import rounding, structure
from compiler.compress.decision import Offer
from compiler.errors import InfeasibleBudgetError, NumericError, UsageError
from compiler.ir.edit import Editor
from compiler.ir.graph import Kind
from compiler.plan import parse_plan
from compiler.search.budget import parse_budget
from compiler.search.experiments import MeasurementBudget
from edgewright.search_labels import check_disjoint, read_labels
from edgewright.search_run import opened, run_search
from edgewright.search_samples import halve, read_calibration
from edgewright.search_structures import SKETCH_SAMPLES
from edgewright.search_sweep import read_sweep, run_sweep
from tests.edgewright.test_searching import Clock, calibrations, images, prepared, run, setting

__all__ = ["calibrations", "setting"]  # fixtures

pytestmark = pytest.mark.target


def dropped(name="drop"):
    """A method that leaves out a convolution whose input and output are alike: its input takes its place."""

    def blocks(graph):
        return [n for n in graph.ops() if n.op == "aten.conv2d.default" and n.origin.startswith("blocks")][:2]

    def offers(graph, setting):
        return tuple(Offer(f"{name}:{n.origin}", ("out",), frozenset({n.name})) for n in blocks(graph))

    def apply(graph, choices, setting):
        editor = Editor(graph)
        for node in blocks(graph):
            if choices.get(f"{name}:{node.origin}") == "out":
                editor.replace_uses(node.value, node.operand("input"))
                editor.remove_unread([node.name])
        return editor.finish()

    return SimpleNamespace(METHOD=name, offers=offers, apply=apply)


@pytest.fixture
def method(monkeypatch):
    made = dropped()
    monkeypatch.setattr(structure, "ORDER", (made,))
    monkeypatch.setattr(rounding, "STEPS", ())  # how int8 is rounded is another test's
    return made


def test_a_method_that_needs_more_samples_than_a_sketch_has_is_not_refused(setting, method, monkeypatch):
    taken, seen = method.apply, []

    def apply(graph, choices, given):
        seen.append(len(given.samples))
        if len(given.samples) <= SKETCH_SAMPLES:
            raise UsageError("too few samples")
        return taken(graph, choices, given)

    monkeypatch.setattr(method, "apply", apply)
    with opened(prepared(), halve(prepared().graph, images(16)), replace(setting, methods=None)) as lab:
        single = lab.space.single(0, 1)
        assert lab.space.structural(single)
        assert lab.refuses(single) is None
        assert lab.outlook(single).departure < 0
    assert seen == [SKETCH_SAMPLES, 8]  # a graph that was made is not made again


def test_structure_and_precision_are_chosen_together(setting, method):
    limits = MeasurementBudget(repairs=2)  # each structure's int8 ranges are read anew
    result = run(replace(setting, budget=parse_budget("0.7x"), limits=limits, methods=None))
    assert {s.method for s in result.space.sites} == {"drop", "precision"}
    assert result.space.overlaps
    assert result.outcome.winner.reading.ratio_high <= 0.7
    assert any(t.choice[0] for t in result.outcome.trials)
    plan = parse_plan((setting.out / "plan.txt").read_text())
    assert plan == result.plan
    assert result.space.choice(plan.without("heal")) == result.outcome.winner.choice


def test_budgets_share_their_measurements_and_make_a_front(setting):
    halves = halve(prepared().graph, images(24))
    made = run_sweep(prepared(), halves, setting, read_sweep("0.55x,0.8x,0.01x"))
    assert [str(p.budget) for p in made.points] == ["0.8x", "0.55x", "0.01x"]
    assert made.points[2].result is None
    for point in made.points[:2]:
        folder = setting.out / str(point.budget)
        assert parse_plan((folder / "plan.txt").read_text()) == point.result.plan
        assert point.result.outcome.winner.reading.ratio_high <= point.budget.ratio
    front = json.loads((setting.out / "front.json").read_text())
    assert [p["budget"] for p in front["points"]] == ["0.8x", "0.55x", "0.01x"]
    assert "least latency measured" in front["points"][2]["reason"]
    assert "| 0.55x |" in (setting.out / "front.md").read_text()
    first, second = ([t.choice for t in p.result.outcome.trials if not t.heals] for p in made.points[:2])
    assert second[: len(first)] == first
    assert len(set(second)) == len(second)


@pytest.mark.parametrize(
    ("text", "message"),
    [("0.8x,12ms", "several kinds"), ("0.8x,0.8x", "twice"), ("0.8x,,", "cannot be read")],
)
def test_a_sweep_that_cannot_be_read_is_told(text, message):
    with pytest.raises(UsageError, match=message):
        read_sweep(text)


def test_the_program_may_be_bounded_in_bytes(setting):
    with pytest.raises(InfeasibleBudgetError, match="3 bytes or less; the smallest measured has"):
        run(replace(setting, max_bytes=3))


def test_the_ninetieth_percentile_is_judged_where_it_is_asked_for(setting):
    protocol = replace(setting.profile.protocol, round_s=0.02)  # a bound of p90 needs 36 samples
    profile = replace(setting.profile, protocol=protocol)
    result = run(replace(setting, percentile="p90", device=Clock(), profile=profile))
    assert result.outcome.winner.reading.percentile == "p90"
    assert "p90" in result.outcome.winner.reading.text


def test_few_measurements_are_kept_to(setting, method):
    result = run(replace(setting, limits=MeasurementBudget(5), budget=parse_budget("0.75x"), methods=None))
    assert len([t for t in result.outcome.trials if any(t.choice)]) <= 5


def test_labels_shut_out_a_variant_that_loses_too_much(setting):
    labelled = [(x[0], torch.tensor([i % 10])) for i, x in enumerate(images(20, seed=9))]
    gate = read_labels(prepared().graph, labelled, 0.0)
    with pytest.raises(InfeasibleBudgetError, match="none may win: accuracy"):
        run(replace(setting, labels=gate))  # twenty samples cannot show a drop of nothing


def test_labels_of_the_wrong_length_and_of_calibration_samples_are_told():
    graph, x = prepared().graph, images(4)
    with pytest.raises(UsageError, match=r"batch 0 holds 1 samples and 2 labels"):
        read_labels(graph, [(x[0][0], torch.tensor([1, 2]))], 0.01)
    with pytest.raises(UsageError, match="without labels"):
        read_labels(graph, [x[0][0]], 0.01)
    gate = read_labels(graph, [(x[0][0], torch.tensor([1]))], 0.01)
    with pytest.raises(UsageError, match="1 of the 1 labelled calls are calibration samples"):
        check_disjoint(gate, halve(graph, x))


def test_outputs_that_are_not_numbers_are_told(setting):
    bad = [(x[0] + float("inf"),) for x in images(8)]
    with pytest.raises(NumericError, match=r"NaN|infinite"):
        run_search(prepared(), halve(prepared().graph, bad), setting)


def test_inputs_that_are_not_numbers_are_told():
    with pytest.raises(UsageError, match=r"batch 0 .* NaN in the input 'x'"):
        halve(prepared().graph, [(x[0] * float("nan"),) for x in images(8)])


def test_a_generator_that_raises_midway_keeps_its_cause():
    def batches():
        yield from images(2)
        raise RuntimeError("the disk is gone")

    with pytest.raises((UsageError, RuntimeError), match="the disk is gone"):
        halve(prepared().graph, read_calibration(batches()))


def test_a_budget_that_is_met_returns_the_float_model_untouched(setting, method):
    result = run(replace(setting, budget=parse_budget("1x")))
    assert result.outcome.winner.choice == result.space.base
    assert all(d.option == "float32" for d in result.plan.decisions)
    assert all(n.kind is not Kind.STATE for n in prepared().graph.nodes())
