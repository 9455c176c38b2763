"""The command line from a model to a measurement, with ExecuTorch underneath."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from edgewright.cli import main

MODEL = """
import torch
from torch import nn

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.na = nn.BatchNorm2d(8)
        self.b = nn.Conv2d(3, 8, 1)
        self.nb = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        print("a model may print")
        return self.head(torch.relu(self.na(self.a(x)) + self.nb(self.b(x))).mean((2, 3)))


def net():
    return Net().eval(), (torch.randn(1, 3, 16, 16),)


def slow():
    import time

    print("loading", flush=True)
    time.sleep(600)
"""
QUICK = """
[device]
name = "quick"
[reach]
transport = "local"
[run]
targets = ["executorch"]
threads = 1
[protocol]
settle_s = 0.0
warmup_s = 0.01
warmup_max_s = 0.1
round_s = 0.01
min_rounds = 3
max_rounds = 4
max_seconds = 1.0
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    (folder / "models.py").write_text(MODEL)
    (folder / "quick.toml").write_text(QUICK)
    return folder


@pytest.fixture
def run(capsys):
    def call(*arguments):
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    return call


def test_compile_profile_and_explain(files, tmp_path, run):
    out = tmp_path / "out"
    shared = ("--profile", files / "quick.toml")
    compiled = json.loads(
        run("compile", f"{files / 'models.py'}:net", "-o", out, "--randomize", "1", "--json", *shared)
    )
    assert compiled == json.loads((out / "manifest.json").read_text())
    assert compiled["methods"][0]["operations"]["aten.conv2d.default"] == {"before": 2, "after": 1}
    assert compiled["verification"]["min_snr_db"] > 100

    measured = json.loads(
        run("profile", out, "--database", tmp_path / "m.db", "--allow-unstable", "--json", *shared)
    )
    assert measured["schema"] == "edgewright.measurement/1"
    assert measured["artifact_digest"] == compiled["artifact_digest"]
    assert measured["low_ns"] <= measured["median_ns"] <= measured["high_ns"]
    assert "median" in run("profile", out, "--database", tmp_path / "m.db", "--allow-unstable", *shared)

    explained = json.loads(run("explain", out, "--json"))
    [merged, between] = explained["attempts"]
    assert (merged["outcome"], merged["form"]) == ("merged", "tap map 3x3, 3 to 8 channels, bias")
    assert merged["residual"] < 1e-12 and merged["before"]["bytes"] > merged["after"]["bytes"]
    assert (between["outcome"], between["reason"]) == ("barrier", "relu is not affine in its input")
    shown = run("explain", f"{files / 'models.py'}:net")
    assert "merged: 1 regions, priced by roofline prior" in shown and "tap map 3x3" in shown


@pytest.mark.parametrize("batch", [(), ("--dynamic-batch",)])
def test_a_saved_program_gives_the_same_artifact(files, tmp_path, run, batch):
    from edgewright.models import load_model

    loaded = load_model(f"{files / 'models.py'}:net", dynamic_batch=bool(batch))
    program = torch.export.export(loaded.module, loaded.args, dynamic_shapes=loaded.dynamic_shapes())
    torch.export.save(program, tmp_path / "net.pt2")
    direct = json.loads(run("compile", f"{files / 'models.py'}:net", "-o", tmp_path / "a", "--json", *batch))
    saved = json.loads(run("compile", tmp_path / "net.pt2", "-o", tmp_path / "b", "--json"))
    assert direct["methods"][0]["graph_digest"] == saved["methods"][0]["graph_digest"]
    assert isinstance(direct["methods"][0]["inputs"][0]["shape"][0], str if batch else int)


def test_lists(run):
    assert "host" in run("profiles")
    assert json.loads(run("profiles", "host", "--json"))["transport"] == "local"
    assert {"device": "local"} in json.loads(run("devices", "--json"))["devices"]
    assert json.loads(run("devices", "local", "--json"))["fingerprint"]["machine"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_compile_leaves_nothing(files, tmp_path, number):
    process = _start(f"{files / 'models.py'}:slow", tmp_path / "out")
    _wait_for(process, "loading")
    _ends_interrupted(process, number, tmp_path)


def test_a_compile_interrupted_while_it_lowers_leaves_nothing(files, tmp_path):
    process = _start(f"{files / 'models.py'}:net", tmp_path / "out")
    _wait_for(process, "lower: executorch")
    assert any(tmp_path.iterdir())
    _ends_interrupted(process, signal.SIGINT, tmp_path)


def _start(model: str, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "edgewright.cli", "compile", model, "--out", str(out)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )


def _wait_for(process: subprocess.Popen, words: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            time.sleep(0.2)
            return
    pytest.fail(f"the process ended without saying {words!r}")


def _ends_interrupted(process: subprocess.Popen, number: int, folder: Path) -> None:
    os.kill(process.pid, number)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert stderr.splitlines()[-1].startswith("edgewright: interrupted")
    assert list(folder.iterdir()) == []
