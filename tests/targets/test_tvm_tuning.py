"""Tuned schedules: what is tried, kept, found again and applied. What a candidate takes is made up here."""

import dataclasses
import json
import sys

import pytest
import torch
from torch import nn

from compiler.errors import DeviceError, UsageError
from compiler.records import RunSpec
from compiler.target import FORWARD
from compiler.tuning import Trial, best
from devices import open_device
from devices.database import MeasurementDatabase
from edgewright import tuning
from edgewright.cli import main
from edgewright.schedule_runs import ScheduleBench
from targets import get_target
from targets.tvm.processor import machine, this_machine
from targets.tvm.tuning import context, search
from targets.tvm.tuning.kernels import alone, key, program
from targets.tvm.tuning.programs import build
from tests.targets.conftest import PROFILE, Lowered, _imported

TARGET = get_target("tvm")
X = (torch.linspace(-1, 1, 4 * 48).reshape(4, 48),)
DEFAULT = 100.0


def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 6), nn.Unflatten(1, (2, 3))).eval()


@pytest.fixture(scope="module")
def graph():
    return _imported(net(), *X)


@pytest.fixture(scope="module")
def tuner(graph):
    return TARGET.tuner(graph, PROFILE)


class Stopped(BaseException):
    """What Ctrl-C is to a user."""


class Watch:
    """Takes 90 for each candidate, less for the one that is the `quickest`; fails those in `broken`."""

    def __init__(self, quickest=None, broken=(), stop_at=None, done=0):
        self.quickest, self.broken, self.stop_at, self.done = quickest, broken, stop_at, done

    def __call__(self, specs):
        taken = [DEFAULT]
        for _ in specs[1:]:
            if self.done == self.stop_at:
                raise Stopped
            quick = 10.0 if self.done == self.quickest else 90.0 + self.done
            taken.append(None if self.done in self.broken else quick)
            self.done += 1
        return taken


def hurry(patch):
    """Batches of three out of a small population."""
    for name, value in {"BATCH": 3, "POPULATION": 8, "FRESH": 4, "GENERATIONS": 1}.items():
        patch.setattr(context, name, value)


def leave_unbuilt(patch):
    """Programs are not linked: nobody runs them."""
    hurry(patch)
    patch.setattr(search, "build", lambda *_: RunSpec({}, ("none",)))


@pytest.fixture
def unbuilt(monkeypatch):
    leave_unbuilt(monkeypatch)


@pytest.fixture(scope="module")
def whole(tuner):
    """Seven trials, of which the fifth is the quickest."""
    with pytest.MonkeyPatch.context() as patch:
        leave_unbuilt(patch)
        return run(tuner, 7, Watch(quickest=4))


def run(tuner, trials, watch, known=(), seed=0):
    return [t for batch in tuner.tune(tuner.kernels[0], trials, seed, known, watch) for t in batch]


def test_kernels_are_told_by_what_they_compute_and_ordered_by_weight(tuner):
    first, second = tuner.kernels
    assert (first.calls, first.operations >= 2 * 4 * 48 * 32) == (1, True) and first.weight > second.weight
    source = tuner.sources[first]
    renamed = source.function.with_attr("global_symbol", "other")
    assert key(renamed) == first.key != key(tuner.sources[second].function)
    assert list(tuner.refused.values()) == ["it moves data and computes nothing"]


def test_the_budget_is_kept_and_the_quickest_is_found(unbuilt, tuner, whole):
    assert len(whole) == len({t.schedule for t in whole}) == 7
    assert best(whole) is whole[4] and best(whole).ratio == 0.1
    assert run(tuner, 0, Watch(stop_at=0)) == []
    assert not any("tensor_intrin" in name for name in sys.modules)  # its import takes minutes


def test_what_is_known_is_not_measured_and_more_trials_go_further(unbuilt, tuner, whole):
    assert run(tuner, 7, Watch(stop_at=0), whole) == []
    again = Watch(quickest=4, done=6)
    assert [*whole[:6], *run(tuner, 7, again, whole[:6])] == whole and again.done == 7


def test_an_interrupted_tuning_goes_on_as_if_it_had_not_been(unbuilt, tuner, whole):
    kept = []
    with pytest.raises(Stopped):
        for batch in tuner.tune(tuner.kernels[0], 7, 0, (), Watch(quickest=4, stop_at=5)):
            kept += batch
    assert kept == whole[:3]
    assert kept + run(tuner, 7, Watch(quickest=4, done=3), kept) == whole


def test_another_seed_looks_elsewhere(unbuilt, tuner):
    one, two = ({t.schedule for t in run(tuner, 3, Watch(), seed=s)} for s in (0, 1))
    assert one != two


def test_a_candidate_that_fails_is_recorded_and_passed_over(monkeypatch, unbuilt, tuner):
    def stumble(program, module, processor, folder):
        if folder.name == "1":
            raise ValueError("LLVM stumbled")
        return RunSpec({}, ("none",))

    monkeypatch.setattr(search, "build", stumble)
    trials = run(tuner, 3, Watch(quickest=1, broken=(0,)))
    assert [(t.latency, t.reason) for t in trials] == [
        (None, "it does not run"), (None, "LLVM stumbled"), (10.0, "")
    ]  # fmt: skip
    assert best(trials) is trials[2]


@pytest.fixture(scope="module")
def tuned(tuner, whole):
    """A target with a schedule for the first kernel."""
    return TARGET.scheduled({tuner.kernels[0].key: whole[0].schedule})


@pytest.mark.parametrize("route", ["vm", "static"])
def test_a_tuned_program_computes_the_same_by_other_code(tuned, graph, tmp_path, route):
    profile = PROFILE if route == "vm" else dataclasses.replace(PROFILE, arch=machine())
    lowered = {}
    for name, target in {"tuned": tuned, "untuned": TARGET}.items():
        report = target.lower({FORWARD: graph}, profile, tmp_path / name).report
        assert report["route"] == route
        lowered[name] = Lowered(target, graph, tmp_path / name, dict(report))
    assert lowered["tuned"].error(*X) < 1e-5
    tuned_report, report = lowered["tuned"].report, lowered["untuned"].report
    assert (tuned_report["tuned"], report["tuned"]) == (True, False)
    assert (tuned_report["tuned_kernels"], report["tuned_kernels"]) == (
        {"tuned": 1, "of": 3},
        {"tuned": 0, "of": 3},
    )
    programs = [
        next(p for p in (f.folder / "model.so", f.folder / "model") if p.exists()) for f in lowered.values()
    ]
    assert programs[0].read_bytes() != programs[1].read_bytes()


def test_a_schedule_of_another_kernel_is_not_taken(graph, tmp_path):
    report = TARGET.scheduled({"0" * 16: "[[],[]]"}).lower({FORWARD: graph}, PROFILE, tmp_path).report
    assert report["tuned"] is False


def test_a_profile_of_several_threads_is_refused(graph):
    with pytest.raises(UsageError, match="tuned for 1 thread, the profile 'test' asks for 2"):
        TARGET.tuner(graph, dataclasses.replace(PROFILE, threads=2))


@pytest.fixture
def bench(tmp_path):
    with MeasurementDatabase("sqlite://") as database:
        yield ScheduleBench("k", "tvm", open_device("local"), PROFILE, database)


def test_a_program_that_does_not_run_has_no_latency(bench, tuner, tmp_path):
    source = tuner.sources[tuner.kernels[1]]
    good = build(program(source), alone(source.function), this_machine(), tmp_path / "good")
    (tmp_path / "bad").write_text("no program")
    bad = RunSpec({"program": tmp_path / "bad"}, ("{program}",))
    first, second, third = bench([good, bad, good])
    assert first > 0 and second is None and third > 0
    with pytest.raises(DeviceError):
        bench([bad, good])


MODEL = """
import torch
from torch import nn


def net():
    return nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3)).eval(), (torch.randn(2, 24),)
"""
HERE = """
[device]
name = "here"
[reach]
transport = "local"
[run]
targets = ["executorch", "tvm"]
threads = 1
"""


@pytest.fixture
def command(tmp_path, capsys):
    (tmp_path / "net.py").write_text(MODEL)
    (tmp_path / "here.toml").write_text(HERE)
    common = ["--profile", tmp_path / "here.toml", "--database", tmp_path / "m.sqlite"]

    def call(name, *options, expected=0):
        capsys.readouterr()
        code = main([name, f"{tmp_path / 'net.py'}:net", *map(str, [*common, *options])])
        captured = capsys.readouterr()
        assert code == expected, captured.err
        return captured.out

    return call


def test_four_trials_on_this_machine_are_kept_and_taken_by_the_next_compile(command, tmp_path, monkeypatch):
    hurry(monkeypatch)
    first = json.loads(command("tune", "--trials", 4, "--json"))
    assert (first["schema"], first["target"], first["metric"]) == ("edgewright.tuning/1", "tvm", "wall")
    assert first["measured"] == 4 == sum(k["share"] for k in first["kernels"])
    assert sum(k["trials"] for k in first["kernels"]) == 4

    monkeypatch.setattr(ScheduleBench, "__call__", None)  # nothing is measured from here on
    again = command("tune", "--trials", 4)
    assert "0 measured now" in again

    monkeypatch.setattr(tuning, "best", lambda trials: trials[0])  # be it faster on this machine or not
    options = ("--target", "tvm", "--out", tmp_path / "out")
    shown = command("compile", *options, "--device", "local")
    assert "kernels tuned)" in shown and "untuned" not in shown
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["lowering"]["tuned"] is True and manifest["verification"]["passed"]


def test_what_cannot_be_tuned_has_its_exit_code(command):
    command("tune", "--target", "executorch", expected=2)
    command("tune", "--trials", 0, expected=2)
    command("tune", "--device", "nowhere", expected=5)


def test_trials_are_rows_of_plain_text(tuned):
    (schedule,) = tuned.schedules.values()
    instructions, decisions = json.loads(schedule)
    assert instructions and decisions and Trial(schedule, 1.0, 2.0).ratio == 0.5
