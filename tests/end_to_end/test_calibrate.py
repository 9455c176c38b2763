"""Kernels through ExecuTorch on this machine: what is stored and found again, never how long it took."""

from __future__ import annotations

import json

import pytest

from compiler.cost.kernel import kernel_of, parse_kernel
from compiler.merge import open_choices
from devices import open_device
from devices.database import MeasurementDatabase
from devices.latency import CHAINS, chain_label
from edgewright.cli import main
from edgewright.kernel_programs import Bench, chain_candidates, kernel_candidate
from edgewright.latency import load_table
from profiles import load_profile
from targets import get_target

MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


def net():
    return Net().eval(), (torch.randn(1, 3, 16, 16),)
"""
# Processor time and a wide limit: on a busy machine too, a kernel keeps the reading it got.
QUICK = """
[device]
name = "quick"
[reach]
transport = "local"
[run]
targets = ["executorch"]
threads = 1
[protocol]
metric = "cpu"
settle_s = 0.0
warmup_s = 0.01
warmup_max_s = 0.1
round_s = 0.01
min_rounds = 6
max_rounds = 6
unstable_width = 1000.0
"""
OPEN = ("aten.conv2d.default", "aten.relu.default", "aten.linear.default")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrate")
    (folder / "models.py").write_text(MODEL)
    (folder / "quick.toml").write_text(QUICK)
    return folder


@pytest.fixture
def command(files, capsys, monkeypatch):
    """`edgewright calibrate` as if three operations of the net were open choices."""

    def choose(graph, table, prior):
        return tuple(kernel_of(graph, n) for n in graph.ops() if n.op in OPEN)

    monkeypatch.setattr(open_choices, "open_kernels", choose)

    def call():
        capsys.readouterr()
        options = ["--profile", files / "quick.toml", "--database", files / "m.sqlite", "--device", "local"]
        options += ["--decide", "merge"]
        code = main(["calibrate", f"{files / 'models.py'}:net", *map(str, options), "--json"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return json.loads(captured.out)

    return call


def test_three_kernels_are_measured_once_and_make_a_table(command, files) -> None:
    first = command()
    assert first["outcomes"] == {"measured": 3, "known": 0, "unsteady": 0, "refused": 0, "left": 0}
    assert (first["target"], first["metric"], first["threads"]) == ("executorch", "cpu", 1)
    assert first["fixed_median_ns"] >= 0
    for entry in first["kernels"]:
        assert 0 < entry["low_ns"] <= entry["median_ns"] <= entry["high_ns"]
        assert parse_kernel(entry["kernel"]).text == entry["kernel"]
    assert sorted(e["kernel"].partition("(")[0] for e in first["kernels"]) == sorted(OPEN)

    with MeasurementDatabase(files / "m.sqlite") as database:
        stored = database.summaries("kernels/")
        made = len(database.measurements())
        assert {s.label for s in stored} == {
            *(e["kernel"] for e in first["kernels"]),
            *map(chain_label, CHAINS),
        }
        assert all(s.target["target"] == "executorch" and s.target["executorch"] for s in stored)

        second = command()
        assert second["outcomes"] == {"measured": 0, "known": 3, "unsteady": 0, "refused": 0, "left": 0}
        assert second["kernels"] == [{**e, "outcome": "known"} for e in first["kernels"]]
        assert len(database.measurements()) == made == 5

    table = load_table(files / "m.sqlite", str(files / "quick.toml"))
    assert table is not None and table.label == first["table"]
    assert table.covers(parse_kernel(e["kernel"]) for e in first["kernels"])
    assert load_table(files / "m.sqlite", "host") is None  # another protocol


def test_a_kernel_lowers_to_the_same_bytes_each_time(tmp_path) -> None:
    """An interrupted calibration finds its rounds by the digest of what it lowered."""
    kernel = parse_kernel(
        "aten.conv2d.default(input=float32[1,8,9,9], weight=const float32[8,1,3,3], bias=const float32[8], "
        "padding=[1,1], groups=8)"
    )
    with MeasurementDatabase("sqlite://") as database:
        target, profile, device = get_target("executorch"), load_profile("host"), open_device("local")
        benches = [Bench(target, profile, device, database, tmp_path / name) for name in ("one", "two")]
        one, two = (kernel_candidate(kernel, bench) for bench in benches)
        chains = [{n: c.artifact_digest for n, c in chain_candidates(bench).items()} for bench in benches]
    assert one.artifact_digest == two.artifact_digest
    assert chains[0] == chains[1]
    assert len({one.artifact_digest, *chains[0].values()}) == 3
