"""`edgewright search` with ExecuTorch underneath: interrupted, run again, replayed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgewright.cli import main

# One token through wide layers reads a quarter of the bytes in int8, whatever instructions a processor has.
MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(1024, 1024) for _ in range(2))
        self.head = nn.Linear(1024, 10)

    def forward(self, x):
        for block in self.blocks:
            x = torch.relu(block(x))
        return self.head(x)


def net():
    return Net().eval(), (torch.zeros(1, 1024),)


def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 1024, generator=generator) for _ in range(4)]
"""
# Processor time: what else runs on the machine must not decide whether a test passes.
PROFILE = """
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
round_s = 0.02
min_rounds = 6
max_rounds = 160
unstable_width = 1.0
"""

UNSTEADY, UNSTEADY_RUNS = 7, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("search")
    (made / "net.py").write_text(MODEL)
    (made / "quick.toml").write_text(PROFILE)
    return made


def arguments(folder: Path) -> list[str]:
    net, profile = folder / "net.py", folder / "quick.toml"
    return [
        *("search", f"{net}:net", "--calibration", f"{net}:batches", "--profile", str(profile)),
        *("--methods", "precision", "--latency-budget", "0.8x", "--json"),
        *("--out", str(folder / "out"), "--database", str(folder / "m.db"), "--max-measurements", "8"),
    ]


@pytest.fixture(scope="module")
def interrupted(folder):
    """A search stopped by Ctrl-C once its variants are lowered; returns its exit code."""
    command = [sys.executable, "-m", "edgewright.cli", *arguments(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "runners are warm" in line:
                os.kill(process.pid, signal.SIGINT)
                break
        process.stderr.read()
        process.stdout.read()
    return process.returncode


@pytest.fixture(scope="module")
def found(folder, interrupted):
    """The document of the same command run again, to its end, and what it had to lower."""
    before = {p.name: p.stat().st_mtime_ns for p in variants(folder)}
    command = [sys.executable, "-m", "edgewright.cli", *arguments(folder)]
    for _ in range(UNSTEADY_RUNS):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != UNSTEADY:  # it says to run the same command again: what is done is kept
            break
    assert done.returncode == 0, done.stderr
    return before, json.loads(done.stdout)


def variants(folder: Path) -> list[Path]:
    return [p for p in (folder / "out" / "work" / "variants").iterdir() if p.is_dir()]


@pytest.mark.slow  # many minutes where readings are unsteady
def test_a_search_is_interrupted_goes_on_and_is_replayed(folder, interrupted, found):
    """One test: side by side, several would each make the search."""
    ends_with_130_and_keeps_the_work(interrupted, found)
    meets_the_budget_and_is_verified(folder, found)
    is_replayed_by_compile(folder)


def ends_with_130_and_keeps_the_work(interrupted, found):
    before, document = found
    assert interrupted == 130
    assert len(before) >= 5  # float32 and what each precision makes of all that it can
    tried = {t["variant"] for t in document["tried"]}
    assert {"float32", "int8"} < tried


def meets_the_budget_and_is_verified(folder, found):
    _, document = found
    out = folder / "out"
    assert document["plan"]["ratio_high"] <= 0.8
    manifest = json.loads((out / "artifact" / "manifest.json").read_text())
    assert manifest["verification"]["passed"]
    assert manifest["plan_digest"] == document["plan"]["plan_digest"]
    assert (
        document["plan"]["unseen_cost"]["samples"] == 4
    )  # the other half of half B confirms repairs and healing
    assert sorted(p.name for p in out.iterdir()) == [
        "artifact",
        "plan.json",
        "plan.txt",
        "search.html",
        "tried.json",
        "tried.md",
    ]


def is_replayed_by_compile(folder):
    net, replayed = folder / "net.py", folder / "replayed"
    plan = folder / "out" / "plan.txt"
    common = ["compile", f"{net}:net", "--profile", str(folder / "quick.toml"), "--plan", str(plan)]
    assert main([*common, "--calibration", f"{net}:batches", "--out", str(replayed)]) == 0
    own, searched = (
        json.loads((p / "manifest.json").read_text()) for p in (replayed, folder / "out" / "artifact")
    )
    assert own["plan"] == searched["plan"]
    assert own["methods"][0]["operations"] == searched["methods"][0]["operations"]
