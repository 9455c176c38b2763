"""Calibration with a runtime and a device that are made up: what is measured, what is not, and what is told.

The made-up runtime writes down how long its device will take, so every price is known beforehand.
"""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from torch import nn

from compiler.cost.kernel import TensorSpec, kernel_call, kernel_of
from compiler.errors import DeviceError, UnstableMeasurementError, UsageError
from compiler.merge import open_choices
from devices.database import MeasurementDatabase
from devices.latency import RUN_KERNELS
from edgewright import calibration
from edgewright.calibration import MOST_PASSES, MOST_TRIES, Outcome, calibrate, calibrate_graphs
from edgewright.cli import main
from edgewright.kernel_programs import TINY, Bench, chain_candidates, kernel_candidate
from edgewright.latency import load_table
from tests.edgewright.paper_desk import FIXED_NS, LAUNCH_NS, PROFILE, PROTOCOL, Desk, Paper


def conv(out: int, groups: int = 1):
    x, w = TensorSpec((1, 4, 9, 9), "float32", False), TensorSpec((out, 4 // groups, 3, 3), "float32", True)
    return kernel_call("aten.conv2d.default", {"input": x, "weight": w, "groups": groups})


def expected_ns(out: int) -> int:
    return LAUNCH_NS + 10 * out * 4 * 9


@pytest.fixture
def bench(tmp_path):
    """A desk with paper, and a database in a file."""
    with MeasurementDatabase(tmp_path / "m.sqlite") as database:
        yield Bench(Paper(), PROFILE, Desk(), database, tmp_path / "programs")


def always(*kernels):
    return lambda graph, table: tuple(kernels)


def run(bench, choose, graphs=("a graph",)):
    return calibrate_graphs(graphs, bench, [choose])


def test_what_is_needed_is_measured_and_nothing_else(bench) -> None:
    done = run(bench, always(conv(8), conv(16)))
    assert {k.text: o for k, o in done.outcomes.items()} == dict.fromkeys(
        (conv(16).text, conv(8).text), Outcome.MEASURED
    )
    assert set(done.table.entries) == {conv(8).text, conv(16).text}
    assert (done.table.cost(conv(8)), done.table.cost(conv(16))) == (expected_ns(8), expected_ns(16))
    assert done.table.fixed.median == FIXED_NS
    tiny = [text for text in bench.target.lowered if TINY in text]
    assert Counter(bench.target.lowered) == Counter([*tiny, conv(8).text, conv(16).text])
    assert len(tiny) == 2


def test_no_open_choice_measures_nothing(bench) -> None:
    done = run(bench, always())
    assert (done.outcomes, bench.target.lowered, bench.device.timed) == ({}, [], Counter())
    assert bench.database.measurements() == ()


def test_what_has_its_reading_is_not_measured_again(bench) -> None:
    run(bench, always(conv(8)))
    bench.target.lowered.clear()
    bench.device.timed.clear()
    done = run(bench, always(conv(8)))
    assert done.outcomes == {conv(8): Outcome.KNOWN}
    assert (bench.target.lowered, bench.device.timed) == ([], Counter())
    more = run(bench, always(conv(8), conv(16)))
    assert more.outcomes == {conv(16): Outcome.MEASURED, conv(8): Outcome.KNOWN}
    assert conv(8).text not in bench.device.timed


def test_the_kernels_of_several_models_are_measured_once(bench) -> None:
    needs = {"one": (conv(8), conv(16)), "two": (conv(16), conv(24))}
    done = run(bench, lambda graph, table: needs[graph], ("one", "two"))
    assert done.kernels(Outcome.MEASURED) == (conv(16), conv(24), conv(8))
    assert bench.target.lowered.count(conv(16).text) == 1


def test_a_new_table_may_open_further_choices(bench) -> None:
    seen = []

    def choose(graph, table):
        seen.append(None if table is None else len(table.entries))
        if table is None:
            return (conv(8),)
        return (conv(16),) if table.cost(conv(8)) == expected_ns(8) else ()

    done = run(bench, choose)
    assert done.outcomes == {conv(16): Outcome.MEASURED, conv(8): Outcome.MEASURED}
    assert seen == [None, 1, 2]


def test_choices_without_end_are_cut_off(bench) -> None:
    done = run(bench, lambda graph, table: (conv(8 + (len(table.entries) if table else 0)),))
    assert done.kernels(Outcome.MEASURED) == tuple(
        sorted((conv(8 + i) for i in range(MOST_PASSES)), key=lambda k: k.text)
    )


def test_a_kernel_that_the_target_does_not_lower_is_told(bench) -> None:
    done = run(bench, always(conv(8), conv(8, groups=4)))
    assert done.outcomes[conv(8)] is Outcome.MEASURED
    assert done.kernels(Outcome.REFUSED) == (conv(8, groups=4),)
    assert done.refused == {conv(8, groups=4): "paper has no grouped convolution"}
    assert bench.target.refused == [conv(8, groups=4).text]  # asked once
    only = run(bench, always(conv(8, groups=4)))
    assert only.kernels(Outcome.REFUSED) == (conv(8, groups=4),)


def test_a_kernel_that_lowers_and_does_not_run_is_told_and_spares_the_others(bench) -> None:
    bench.device.broken = "[16,4"
    done = run(bench, always(conv(8), conv(16), conv(24)))
    assert done.kernels(Outcome.MEASURED) == (conv(24), conv(8))
    assert done.kernels(Outcome.REFUSED) == (conv(16),)
    assert "the point breaks" in done.refused[conv(16)]
    assert bench.target.lowered.count(conv(8).text) == 1  # measured in the same pass, without the other
    only = run(bench, always(conv(16)))
    assert only.kernels(Outcome.REFUSED) == (conv(16),)


def test_a_lost_device_is_not_taken_for_a_broken_kernel(bench) -> None:
    bench.device.lost = True
    with pytest.raises(DeviceError, match="the point breaks"):
        run(bench, always(conv(8)))


def test_what_a_table_already_settles_is_told_as_known(bench) -> None:
    """A choice that names only what is missing, as the merge engine's does."""

    def choose(graph, table):
        return tuple(k for k in (conv(8), conv(16)) if table is None or k.text not in table.entries)

    run(bench, always(conv(8), conv(24)))
    done = run(bench, choose)
    assert done.outcomes == {conv(16): Outcome.MEASURED, conv(8): Outcome.KNOWN}


def test_an_unsteady_kernel_is_tried_again_and_then_told(bench) -> None:
    bench.device.shaky = "[16,4"
    done = run(bench, always(conv(8), conv(16)))
    assert done.outcomes == {conv(16): Outcome.UNSTEADY, conv(8): Outcome.MEASURED}
    assert done.table.cost(conv(16)) is None
    assert bench.target.lowered.count(conv(16).text) == MOST_TRIES
    assert bench.target.lowered.count(conv(8).text) == 1
    bench.device.shaky = "nothing"
    assert run(bench, always(conv(8), conv(16))).outcomes[conv(16)] is Outcome.MEASURED


def test_many_kernels_are_measured_in_runs(bench) -> None:
    kernels = [conv(8 + i) for i in range(RUN_KERNELS + 2)]
    done = run(bench, always(*kernels))
    assert done.table.covers(kernels)
    assert {s.series.split()[1] for s in bench.database.summaries("kernels/1 ")} != set()
    assert len({s.series.split()[1] for s in bench.database.summaries("kernels/1 ")}) == 2


def test_an_interrupted_calibration_goes_on_where_it_stopped(bench) -> None:
    kernels = [conv(8 + i) for i in range(RUN_KERNELS + 2)]
    programs, warm_up = RUN_KERNELS + 2, 2
    first_run = programs * (warm_up + PROTOCOL.max_rounds)
    bench.device.stop_at = first_run + 4 * warm_up + 5  # five rounds into the second run
    with pytest.raises(KeyboardInterrupt):
        run(bench, always(*kernels))
    bench.device.stop_at = None
    bench.device.timed.clear()
    done = run(bench, always(*kernels))
    assert done.table.covers(kernels)
    assert len(done.kernels(Outcome.KNOWN)) == RUN_KERNELS
    assert bench.device.timed.total() == 4 * (warm_up + PROTOCOL.max_rounds) - 5


def test_the_same_kernel_is_the_same_artifact_in_another_folder(bench, tmp_path) -> None:
    other = Bench(bench.target, bench.profile, bench.device, bench.database, tmp_path / "elsewhere")
    here, there = kernel_candidate(conv(8), bench), kernel_candidate(conv(8), other)
    assert here.artifact_digest == there.artifact_digest != kernel_candidate(conv(16), bench).artifact_digest
    assert here.spec.files["program"] != there.spec.files["program"]
    assert here.label == conv(8).text
    chains = chain_candidates(bench)
    assert [json.loads(c.spec.files["program"].read_text())["ns"] for c in chains.values()] == [
        FIXED_NS + LAUNCH_NS,
        FIXED_NS + 9 * LAUNCH_NS,
    ]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3)

    def forward(self, x):
        return torch.relu(self.conv(x))


@pytest.fixture
def resolved(monkeypatch):
    """The front door finds paper and the desk."""
    paper, desk = Paper(), Desk()
    for module in (calibration, calibration_latency()):
        monkeypatch.setattr(module, "resolve", lambda profile, target: (paper, PROFILE))
        monkeypatch.setattr(module, "open_device", lambda spec: desk)
    return paper, desk


def calibration_latency():
    from edgewright import latency

    return latency


def convolutions(graph, table):
    """Every convolution of the graph, as if its form were an open choice."""
    return tuple(kernel_of(graph, n) for n in graph.ops() if n.op == "aten.conv2d.default")


def test_a_model_is_calibrated_and_its_table_found_again(resolved, tmp_path) -> None:
    example = torch.randn(1, 4, 9, 9)
    assert load_table(tmp_path / "m.sqlite") is None
    done = calibrate([Net().eval()], inputs=example, database=tmp_path / "m.sqlite", choose=convolutions)
    (kernel,) = done.kernels(Outcome.MEASURED)
    assert done.table.cost(kernel) == expected_ns(8) + 10 * 8  # the bias
    assert load_table(tmp_path / "m.sqlite") == done.table
    assert done.table.label == "latency table of desk (pencil), paper, 1 thread, 1 kernel"
    with MeasurementDatabase(tmp_path / "m.sqlite") as database:
        assert load_table(database) == done.table


def test_an_unsteady_device_is_an_error_unless_allowed(resolved, tmp_path) -> None:
    _, desk = resolved
    desk.shaky = "conv2d"
    ask = {"inputs": torch.randn(1, 4, 9, 9), "database": tmp_path / "m.sqlite", "choose": convolutions}
    with pytest.raises(
        UnstableMeasurementError, match=r"desk: 1 of 1 kernels .*aten\.conv2d.*--allow-unstable"
    ):
        calibrate([Net().eval()], **ask)
    done = calibrate([Net().eval()], **ask, allow_unstable=True)
    assert [o for o in done.outcomes.values()] == [Outcome.UNSTEADY]


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(UsageError, match="no_such_profile"):
        calibrate([Net().eval()], profile="no_such_profile", choose=convolutions)


@pytest.fixture
def command(resolved, models, tmp_path, monkeypatch, capsys):
    """`edgewright calibrate` on the user's net, every convolution an open choice."""
    monkeypatch.setattr(open_choices, "open_kernels", lambda graph, table, prior: convolutions(graph, table))
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*options):
        capsys.readouterr()
        arguments = [
            "calibrate",
            f"{models}:net",
            "--database",
            str(tmp_path / "m.sqlite"),
            "--decide",
            "merge",
            *options,
        ]
        code = main(arguments)
        return code, capsys.readouterr()

    return call


def test_the_command_tells_what_it_measured_and_what_it_had(command) -> None:
    code, told = command("--json")
    document = json.loads(told.out)
    assert code == 0
    assert document["schema"] == "edgewright.calibration/2"
    assert document["table"] == "latency table of desk (pencil), paper, 1 thread, 1 kernel"
    assert document["outcomes"] == {"measured": 1, "known": 0, "unsteady": 0, "refused": 0, "left": 0}
    assert document["fixed_median_ns"] == FIXED_NS
    (kernel,) = document["kernels"]
    assert kernel["median_ns"] == LAUNCH_NS + 10 * (4 * 3 * 9 + 4)
    assert kernel["low_ns"] <= kernel["median_ns"] <= kernel["high_ns"]
    _, again = command("--json")
    assert json.loads(again.out)["outcomes"]["known"] == 1


def test_the_command_shows_a_table(command) -> None:
    code, told = command()
    assert code == 0
    assert "aten.conv2d.default(input=float32[1,3,8,8]" in told.out.replace("\n", "")
    assert "1 measured. The fixed cost of a call, 2.6 us, is taken off." in told.out


def test_the_command_ends_with_7_on_an_unsteady_device(command, resolved) -> None:
    _, desk = resolved
    desk.shaky = "conv2d"
    code, told = command("--json")
    assert code == 7
    assert json.loads(told.out)["error"] == "UnstableMeasurementError"
    code, told = command("--allow-unstable")
    assert code == 0
    assert "without a latency" in told.out
    assert "1 unsteady" in told.out


def test_the_command_tells_why_a_kernel_has_no_latency(command, resolved) -> None:
    _, desk = resolved
    desk.broken = "conv2d"
    code, told = command()
    assert code == 0
    assert "refused  the point breaks" in told.out
    assert "snap" not in told.out  # the runner's last words stand in the JSON
    _, told = command("--json")
    assert json.loads(told.out)["kernels"][0]["reason"].endswith("snap")


def test_an_unreadable_model_ends_with_2(command, tmp_path, capsys) -> None:
    assert main(["calibrate", "nothing.pt2", "--database", str(tmp_path / "m.sqlite")]) == 2
    assert main(["calibrate"]) == 2
