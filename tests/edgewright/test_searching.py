"""A whole search on a small network, with a device whose latency is known and kernels that take no time.

The runtime's quantizer is the real one; lowering writes down how long the made-up device will take.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from compiler.compress.apply import calibrate
from compiler.compress.quantize import quantized_nodes
from compiler.compress.quantize_dynamic import dynamic_nodes
from compiler.compress.segments import segments
from compiler.device import BenchmarkProtocol, DeviceProfile
from compiler.errors import InfeasibleBudgetError, UnstableMeasurementError, UsageError
from compiler.ir.digest import content_digest
from compiler.plan import parse_plan
from compiler.records import DeviceState, RunSpec
from compiler.search.budget import parse_budget
from compiler.search.experiments import MeasurementBudget
from compiler.target import INT8, Lowered, refuse_precision
from edgewright import compilation, search_healing, search_run, search_structures, searching
from edgewright.models import load_model
from edgewright.search_run import run_search
from edgewright.search_samples import halve, read_calibration
from edgewright.search_setting import Setting
from edgewright.searching import search
from edgewright.stages import prepare
from targets import get_target

pytestmark = pytest.mark.target
FLOAT_NS, GAIN_NS, CONVERSION_NS = 1_000_000, 80_000, 7_000
LAYERS, LAYER_NS = 7, 120_000


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(5))
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(x.mean((2, 3)))


@cache
def prepared():
    torch.manual_seed(0)
    return prepare(load_model(Net().eval(), torch.randn(1, 3, 8, 8)))


@cache
def calibrated():
    return calibrate(prepared().graph, get_target("executorch").quantizer, images(8))


def images(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(1, 3, 8, 8, generator=generator),) for _ in range(count)]


def time_ns(graph):
    int8 = quantized_nodes(graph)
    weighted = [n for n in int8 if graph.node(n).operand("weight") is not None]
    conversions = sum(n.op.startswith("quantized_decomposed.quantize") for n in graph.ops()) - len(int8)
    gone = LAYERS - sum(n.operand("weight") is not None for n in graph.ops())
    gain = GAIN_NS * (len(weighted) + len(dynamic_nodes(graph)))
    return FLOAT_NS - LAYER_NS * gone - gain + CONVERSION_NS * max(0, conversions)


@dataclass
class Paper:
    """A runtime whose programs say how long they take."""

    lowered: list[str] = field(default_factory=list)
    stop_at: int | None = None
    name: str = "paper"
    folds_at_load: bool = False
    depthwise_taps: int | None = None
    precisions: tuple[str, ...] = ("float32", "int8")
    rounds_rows: bool = True

    def installed(self):
        return None

    def versions(self) -> Mapping[str, str]:
        return {"paper": "1"}

    def quantizer(self, selected, precision=INT8):
        refuse_precision(precision, self.precisions, self.name)
        return get_target("executorch").quantizer(selected, precision)

    def lower(self, methods, profile, folder):
        if self.stop_at is not None and len(self.lowered) == self.stop_at:
            raise KeyboardInterrupt
        graph = methods["forward"]
        names = sorted(quantized_nodes(graph))
        self.lowered.append(content_digest(graph))
        (folder / "program.json").write_text(json.dumps({"ns": time_ns(graph), "int8": names}))
        return Lowered(("program.json",), {"outside": []})

    def refuses(self, node):
        return None

    def run_spec(self, artifact, profile, method=None):
        return RunSpec({"program": artifact.folder / "program.json"}, ("{program}",))


@dataclass
class Clock:
    """A device that takes exactly as long as the program says, times a factor by request."""

    factor: object = lambda request: 1.0
    requests: int = 0
    stop_at: int | None = None
    name: str = "clock"
    now_ns: int = 0

    def identity(self):
        return ""

    def fingerprint(self):
        return {"machine": "made up"}

    def state(self):
        self.now_ns += 100_000_000
        return DeviceState(time_ns=self.now_ns)

    def push(self, path: Path, workspace: str | None = None) -> str:
        return str(path)

    def start(self, command, env, affinity):
        return Ticking(self, json.loads(Path(command[0]).read_text())["ns"])


@dataclass
class Ticking:
    device: Clock
    ns: int
    ready: Mapping[str, object] = field(default_factory=lambda: {"load_ns": 1, "threads": 1, "affinity": [0]})

    def request(self, message, timeout_s=600.0):
        if message["do"] == "memory":
            return {}
        if self.device.requests == self.device.stop_at:
            raise KeyboardInterrupt
        self.device.requests += 1
        taken = int(self.ns * self.device.factor(self.device.requests))
        return {"wall_ns": [taken] * message["iterations"], "cpu_ns": [taken] * message["iterations"]}

    def close(self):
        pass


@pytest.fixture
def calibrations(monkeypatch):
    """Count calibrations, other rounding than to the nearest aside, and do the work once for all tests.

    Nothing is healed: it takes longer than all else, and has tests of its own.
    """
    done = []

    def counted(graph, *rest):
        done.extend([] if rest[-1] else [1])
        return calibrated() if graph is prepared().graph else calibrate(graph, *rest)

    monkeypatch.setattr(search_structures, "calibrate", counted)
    monkeypatch.setattr(search_healing, "HEALERS", ())
    monkeypatch.setattr(compilation, "verify_artifact", lambda *_: {})  # paper runs nowhere
    return done


@pytest.fixture
def setting(tmp_path, calibrations):
    protocol = BenchmarkProtocol(
        settle_s=0, warmup_s=0, warmup_max_s=0, round_s=0.003, min_rounds=5, max_rounds=8, max_seconds=1e6
    )
    profile = DeviceProfile("paper", "", "local", ("paper",), 1, protocol=protocol)
    out = tmp_path / "out"
    database = tmp_path / "measurements.db"
    limits = MeasurementBudget(repairs=3)
    budget, methods = parse_budget("0.8x"), ("precision",)
    return Setting(Paper(), profile, Clock(), budget, out, database, limits=limits, methods=methods)


def run(setting, count=24, seed=1):
    return run_search(prepared(), halve(prepared().graph, images(count, seed)), setting)


def test_the_winner_meets_the_budget_and_everything_is_written(setting):
    result = run(setting)
    winner = result.outcome.winner
    assert winner.reading.ratio_high <= 0.8
    assert result.unseen is not None
    assert result.unseen.samples == 6  # of 24 half choose, a quarter confirms, a quarter judges
    out = setting.out
    assert sorted(p.name for p in out.iterdir()) == [
        "artifact",
        "plan.json",
        "plan.txt",
        "search.html",
        "tried.json",
        "tried.md",
    ]
    assert parse_plan((out / "plan.txt").read_text()) == result.plan
    manifest = json.loads((out / "artifact" / "manifest.json").read_text())
    assert manifest["plan_digest"] == result.plan.digest()
    program = json.loads((out / "artifact" / "program.json").read_text())
    assert program["ns"] / FLOAT_NS == pytest.approx(winner.reading.ratio)
    json.dumps(result.document(), allow_nan=False)


def test_no_cheaper_measured_variant_meets_the_budget(setting):
    result = run(setting)
    fits = [t for t in result.outcome.trials if t.reading.within(setting.budget) and t.cost]
    assert result.outcome.winner.cost.mean == min(t.cost.mean for t in fits)
    assert len(fits) < len(result.outcome.trials)


def test_the_table_holds_every_variant_once(setting):
    result = run(setting)
    tried = json.loads((setting.out / "tried.json").read_text())["tried"]
    sites = len(segments(prepared().graph))
    assert len(tried) >= sites + 2
    assert len({t["plan"] for t in tried}) == len(tried)
    assert sum(t["chosen"] for t in tried) == 1
    assert tried[0]["variant"] == "float32"
    table = (setting.out / "tried.md").read_text()
    assert all(row.name in table for row in result.rows)


def test_an_interrupted_search_repeats_no_finished_work(setting, calibrations):
    whole = run(replace(setting, out=setting.out.with_name("whole"), target=Paper(), device=Clock()))
    cuts = [("lower", 3), ("measure", 40), ("measure", 30), ("lower", None)]
    lowered, calibrations[:] = [], []
    for what, when in cuts[:-1]:
        target = Paper(stop_at=when if what == "lower" else None)
        device = Clock(stop_at=when if what == "measure" else None)
        with pytest.raises(KeyboardInterrupt):
            run(replace(setting, target=target, device=device))
        lowered += target.lowered
        assert (setting.out / "work" / "journal.jsonl").is_file()
        assert not (setting.out / "artifact").exists()
    target = Paper()
    result = run(replace(setting, target=target))
    lowered += target.lowered
    assert len(calibrations) == 1
    assert len(lowered) == len(set(lowered)) == len(result.outcome.trials)
    assert result.plan == whole.plan
    assert not (setting.out / "work").exists()


def test_finished_measurements_and_costs_are_read_back(setting, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(search_run, "_assemble", stop)  # all but the last step is done
        run(setting)
    monkeypatch.setattr("edgewright.search_lab.measure", stop)
    monkeypatch.setattr("edgewright.search_costs.evaluate_variants", stop)
    assert run(setting).outcome.winner.reading.ratio_high <= 0.8


@pytest.mark.parametrize("change", ["calibration", "no resume"])
def test_other_data_or_no_resume_starts_afresh(setting, calibrations, change):
    with pytest.raises(KeyboardInterrupt):
        run(replace(setting, device=Clock(stop_at=40)))
    target = Paper()
    if change == "calibration":
        run(replace(setting, target=target), seed=2)
    else:
        run(replace(setting, target=target, resume=False))
    assert len(calibrations) == 2
    assert len(target.lowered) >= len(segments(prepared().graph)) + 2


def test_an_infeasible_budget_names_the_least_latency_and_leaves_no_artifact(setting):
    with pytest.raises(InfeasibleBudgetError, match=r"least latency measured is 0\.\d+ ms .*int8"):
        run(replace(setting, budget=parse_budget("0.1x")))
    assert not (setting.out / "artifact").exists()


def test_a_device_that_gives_no_steady_reading_is_told(setting):
    shaky = Clock(factor=lambda request: 1.0 + 3.0 * (request * 7919 % 13) / 13)
    with pytest.raises(UnstableMeasurementError, match="two variants cannot be compared"):
        run(replace(setting, device=shaky))


def test_a_first_run_that_was_disturbed_is_made_again_for_longer(setting):
    def shaky(request):
        return 1.0 + 3.0 * (request * 7919 % 13) / 13 if request < 250 else 1.0

    protocol = replace(setting.profile.protocol, max_rounds=40)
    told = []
    profile = replace(setting.profile, protocol=protocol)
    result = run(replace(setting, device=Clock(factor=shaky), profile=profile, progress=told.append))
    assert result.outcome.winner.reading.ratio_high <= 0.8
    assert sum("measure again" in text for text in told) == 1


@pytest.mark.parametrize("budget", ["0.8x", "0.8ms"])
def test_readings_of_a_clock_that_falls_decide_nothing(setting, budget):
    def drift(request):
        return 1.0 + request / 40

    with pytest.raises(UnstableMeasurementError, match="cannot be compared"):
        run(replace(setting, device=Clock(factor=drift), budget=parse_budget(budget)))


def test_a_budget_the_float_model_meets_costs_nothing(setting):
    result = run(replace(setting, budget=parse_budget("2ms")))
    assert result.unseen is None
    assert json.loads((setting.out / "artifact" / "program.json").read_text())["int8"] == []
    assert "cost: 0" in "\n".join(result.document()["summary"])


def test_a_later_search_replaces_the_results_of_an_earlier_one(setting):
    first = run(setting)
    second = run(replace(setting, budget=parse_budget("0.55x")))
    assert first.plan != second.plan
    assert parse_plan((setting.out / "plan.txt").read_text()) == second.plan


def test_little_data_is_advised_against(setting):
    assert "24 calibration samples" in run(setting).advice[0]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (None, "--calibration data.py:batches"),
        ([], "--calibration data.py:batches"),
        ([torch.randn(1, 3, 8, 8)], "two at least"),
        ([torch.randn(1, 3, 9, 9), torch.randn(1, 3, 8, 8)], r"must be float32\[1, 3, 8, 8\]"),
        ([(torch.randn(1, 3, 8, 8), torch.randn(1))] * 2, "must hold 1 inputs"),
    ],
)
def test_unusable_calibration_is_told(batches, message):
    with pytest.raises(UsageError, match=message):
        halve(prepared().graph, read_calibration(batches))


def test_halves_are_disjoint_seeded_and_cut_by_call():
    x = torch.arange(10 * 3 * 64, dtype=torch.float32).reshape(10, 3, 8, 8)
    first, again = (halve(prepared().graph, [(x[:7],), (x[7:],)], seed=3) for _ in range(2))
    assert len(first.seen) == len(first.unseen) == 5
    assert first.digest == again.digest
    places = [float(s[0].flatten()[0]) for s in [*first.seen, *first.unseen]]
    assert sorted(places) == [192.0 * i for i in range(10)]
    assert [float(s[0].flatten()[0]) for s in again.seen] == places[:5]


def test_a_folder_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="no search wrote"):
        search(Net().eval(), latency_budget="0.7x", calibration=images(4), out=tmp_path)


@pytest.mark.parametrize("budget", ["fast", "0.7"])
def test_a_bad_budget_is_told_before_anything_is_done(tmp_path, budget):
    with pytest.raises(UsageError, match="12ms"):
        search(Net().eval(), latency_budget=budget, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("measured", [True, False])
def test_what_was_measured_on_the_device_decides_what_is_merged(tmp_path, monkeypatch, measured):
    class Merging(Exception):
        pass

    def merged(source, table, *, progress, prior):
        raise Merging(table)

    monkeypatch.setattr(searching, "load_table", lambda database, profile, target, device: (database, target))
    monkeypatch.setattr(searching, "merged", merged)
    database = tmp_path / "m.db"
    if measured:
        database.touch()
    with pytest.raises(Merging) as raised:
        search(
            Net().eval(),
            inputs=torch.randn(1, 3, 8, 8),
            latency_budget="0.9x",
            calibration=images(4),
            target="executorch",
            database=database,
            out=tmp_path / "out",
        )
    assert raised.value.args == ((database, "executorch") if measured else None,)
    assert database.exists() == measured  # to look is to leave no file behind
