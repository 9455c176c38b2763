"""Calibration for all decisions on the made-up runtime: budgets, fusion, held-out models, and what compile records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from compiler.cost.latency_table import LatencyTable
from compiler.cost.program import WholeProgram
from compiler.cost.total import graph_kernels, total
from compiler.errors import UsageError
from compiler.ir.graph import Graph
from compiler.records import Metric
from devices.database import MeasurementDatabase
from edgewright import calibration
from edgewright.calibration import Outcome, calibrate
from edgewright.calibration_stages import Needs
from edgewright.cli import main
from edgewright.expected_latency import expected_latency
from edgewright.held_out import accuracy, hold_out
from edgewright.measuring_budget import Budget, Spending
from edgewright.stages import canonicalise, prepare
from tests.edgewright.paper_desk import FIXED_NS, LAUNCH_NS, PROFILE, Desk, Paper, price_ns

EXAMPLE = torch.randn(1, 4, 9, 9)


class Net(nn.Module):
    """Two convolutions, activations and a classifier, `width` channels wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, width, 3), nn.Conv2d(width, 2 * width, 1)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x):
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))).mean((2, 3)))


def nets(*widths):
    return [Net(width).eval() for width in widths]


class Fusing(Paper):
    """Paper that runs a relu behind a convolution for nothing."""

    def lower(self, methods, profile, folder):
        found = super().lower(methods, profile, folder)
        graph = methods["forward"]
        behind = sum(
            n.op == "aten.relu.default"
            and graph.producer(next(v for _, v in n.values())).op == "aten.conv2d.default"
            for n in graph.ops()
        )
        path = folder / "program.json"
        program = json.loads(path.read_text())
        path.write_text(json.dumps({**program, "ns": price_ns(graph) - LAUNCH_NS * behind}))
        return found


@pytest.fixture
def resolved(monkeypatch):
    """The front door finds paper and the desk; a test may put another runtime in place of paper."""
    found = {"target": Paper(), "device": Desk()}
    monkeypatch.setattr(calibration, "resolve", lambda profile, target: (found["target"], PROFILE))
    monkeypatch.setattr(calibration, "open_device", lambda spec: found["device"])
    return found


def run(models, tmp_path, **options):
    return calibrate(models, inputs=EXAMPLE, database=tmp_path / "m.sqlite", **options)


def test_an_unknown_decision_is_refused(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"'colour' is no decision; calibrate decides merge, latency"):
        run(nets(8), tmp_path, decide=("merge", "colour"))
    with pytest.raises(UsageError, match="no decision is named"):
        run(nets(8), tmp_path, decide=())


def test_the_fusions_of_the_runtime_are_found_in_the_database(resolved, tmp_path) -> None:
    resolved["target"] = Fusing()
    done = run(nets(8), tmp_path, decide=("latency",))
    document = done.document()
    assert {tuple(f["kinds"]): f["fused"] for f in document["fusions"]} == {
        ("conv2d", "relu"): True,
        ("conv2d pointwise", "relu"): True,
    }


def test_a_runtime_that_fuses_nothing_is_told_so_and_its_whole_is_the_sum(resolved, tmp_path) -> None:
    done = run(nets(8), tmp_path, decide=("latency",))
    assert not any(f["fused"] for f in done.document()["fusions"])
    graph = prepare(canonical(8)).graph
    calls = graph_kernels(graph, done.table)
    assert total(calls, done.table, None).entry.median == price_ns(graph)
    assert done.table.entry(WholeProgram(graph)).median == price_ns(graph) - FIXED_NS


def canonical(width: int):
    from edgewright.models import load_model

    return load_model(Net(width).eval(), EXAMPLE)


def test_held_out_models_are_predicted_from_the_others(resolved, tmp_path) -> None:
    document = run(nets(8, 12, 16, 24), tmp_path, decide=("latency",)).document()
    rows = document["held_out"]
    assert len(rows) == 4
    assert all(row["kernels_forgotten"] > 3 for row in rows)
    assert all(row["predicted"]["kernels_predicted"] > 0 for row in rows)
    summary = document["held_out_summary"]
    assert summary["models"] == 4
    assert summary["mape"] < 0.25
    errors = [abs(row["predicted"]["median_ns"] / row["measured_median_ns"] - 1) for row in rows]
    assert summary["mape"] == pytest.approx(sum(errors) / 4)


def test_held_out_models_are_corrected_by_the_others_whole_programs(resolved, tmp_path) -> None:
    document = run(nets(8, 12, 16, 24, 32), tmp_path, decide=("latency",)).document()
    assert all(row["corrected_error"] is not None for row in document["held_out"])
    summary = document["held_out_summary"]
    assert summary["corrected_models"] == 5 and summary["corrected_mape"] < 0.25


def test_one_model_alone_cannot_be_held_out(resolved, tmp_path) -> None:
    document = run(nets(8), tmp_path, decide=("latency",)).document()
    (row,) = document["held_out"]
    assert (row["error"], document["held_out_summary"]) == (None, None)
    assert row["predicted"]["kernels_unknown"]


def test_a_held_out_models_own_kernels_are_forgotten(resolved, tmp_path) -> None:
    """The judge of the judge: with a lie about one model's kernels only the others' predictions may move."""
    done = run(nets(8, 12, 16), tmp_path, decide=("latency",))
    graphs = {str(w): prepare(canonical(w)).graph for w in (8, 12, 16)}
    needs = dict(zip(graphs, map(list, done.needs), strict=True))
    honest = {row.model: row for row in hold_out(graphs, needs, done.table)}
    shared = set(needs["8"]) | set(needs["16"])
    lying = {
        t: (type(e)(e.median * 9, e.low * 9, e.high * 9) if t in set(needs["12"]) - shared else e)
        for t, e in done.table.entries.items()
    }
    lied = {row.model: row for row in hold_out(graphs, needs, replaced(done.table, lying))}
    assert lied["12"].predicted == honest["12"].predicted
    assert lied["8"].predicted != honest["8"].predicted
    assert accuracy([]) is None


def replaced(table: LatencyTable, entries) -> LatencyTable:
    return LatencyTable(table.device, table.target, table.threads, table.metric, entries, table.fixed)


def test_a_budget_of_kernels_is_kept_and_the_rest_is_left(resolved, tmp_path) -> None:
    done = run(nets(8), tmp_path, decide=("latency", "width"), budget=Budget(max_kernels=3))
    kernels = [k for k in done.kernels(Outcome.MEASURED) if not isinstance(k, WholeProgram)]
    assert len(kernels) == 3
    left = len(done.kernels(Outcome.LEFT))
    assert left > 0
    more = run(nets(8), tmp_path, decide=("latency", "width"), budget=Budget(max_kernels=3))
    assert len(more.kernels(Outcome.KNOWN)) >= 3  # it goes on, and measures none of them again
    assert len(more.kernels(Outcome.LEFT)) == left - 3


def test_a_budget_of_seconds_ends_between_batches() -> None:
    now = iter([0.0, 1.0, 5.0])
    spending = Spending(Budget(max_seconds=4), lambda _: (), clock=lambda: next(now))
    kernel = next(iter(Needs().of_graph(prepare(canonical(8)).graph, None)))
    empty = LatencyTable("desk", "paper", 1, Metric.WALL, {})
    assert spending.batch({kernel.text: kernel}, empty) == {kernel.text: kernel}
    assert spending.batch({kernel.text: kernel}, empty) == {}


def test_without_a_budget_everything_is_measured(resolved, tmp_path) -> None:
    done = run(nets(8), tmp_path, decide=("latency", "width"))
    assert set(done.outcomes.values()) == {Outcome.MEASURED}
    document = done.document()
    assert {c["method"] for c in document["choices"]} == {"width"}
    assert all(o["latency"] == "measured" for c in document["choices"] for o in c["options"])
    for choice in document["choices"]:
        assert choice["best"] == choice["options"][-1]["option"]  # paper's time grows with the weights
        assert choice["settled"]


def test_the_expected_latency_says_what_it_rests_on(resolved, tmp_path) -> None:
    graph: Graph = prepare(canonical(8)).graph
    done = run(nets(8, 12), tmp_path, decide=("latency",))
    measured = expected_latency(graph, done.table)
    assert (measured["kind"], measured["median_ns"]) == ("measured", price_ns(graph))
    other = prepare(canonical(10)).graph
    predicted = expected_latency(other, done.table)
    assert (predicted["kind"], predicted["interval_percent"]) == ("predicted", 90)
    assert predicted["kernels_predicted"] > 0
    assert predicted["low_ns"] < predicted["median_ns"] < predicted["high_ns"]
    assert predicted["device"] == "desk (pencil)"
    mended = expected_latency(other, run(nets(16, 24), tmp_path, decide=("latency",)).table)
    assert mended["kind"] == "corrected by 4 whole programs"
    assert mended["median_ns"] == pytest.approx(price_ns(other), rel=0.25)
    assert mended["sum_ns"] > 0 and mended["kernels_predicted"] > 0
    unknown = expected_latency(other, replaced(done.table, {}))
    assert unknown["median_ns"] is None
    assert "conv2d" in unknown["kernels_unknown"]
    assert expected_latency(other, None) is None


def test_the_command_shows_fusions_choices_and_held_out_models(
    resolved, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "two.py").write_text(MODELS)
    spec = [f"{tmp_path}/two.py:{name}" for name in ("small", "wide")]
    arguments = ["calibrate", *spec, "--database", str(tmp_path / "m.sqlite"), "--decide", "latency,width"]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    for words in (
        "conv2d then relu",
        "apart",
        "8 channels",
        "measured",
        "held-out models",
        "mean absolute error",
    ):
        assert words in told
    assert main([*arguments, "--decide", "speed"]) == 2


MODELS = """
import torch
from torch import nn


def net(width):
    return nn.Sequential(nn.Conv2d(4, width, 3), nn.ReLU(), nn.Conv2d(width, 8, 1)).eval(), (torch.randn(1, 4, 9, 9),)


def small():
    return net(16)


def wide():
    return net(32)
"""


def test_what_was_stored_is_ordinary_measurements(resolved, tmp_path) -> None:
    run(nets(8), tmp_path, decide=("latency",))
    with MeasurementDatabase(Path(tmp_path / "m.sqlite")) as database:
        labels = {s.label for s in database.summaries("kernels/1 ")}
    assert any("; aten.relu.default" in label for label in labels)  # a pair
    assert canonicalise(canonical(8)).graph is not None
