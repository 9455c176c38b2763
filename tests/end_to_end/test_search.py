"""`edgewright search` on an emulated board with LiteRT underneath: interrupted, run again, replayed.

The board counts instructions, which repeat: what else runs on the machine decides nothing here.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from devices.transports.emulated.emulator import unusable
from edgewright.cli import main

# No width is of whole groups of 32, so int4 is no option: fewer programs to lower.
MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(1008, 1008) for _ in range(2))
        self.head = nn.Linear(1008, 10)

    def forward(self, x):
        for block in self.blocks:
            x = torch.relu(block(x))
        return self.head(x)


def net():
    return Net().eval(), (torch.zeros(1, 1008),)


def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 1008, generator=generator) for _ in range(4)]
"""
CORE = "cortex-a76"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if reason := unusable():
        pytest.skip(reason)
    made = tmp_path_factory.mktemp("search")
    (made / "net.py").write_text(MODEL)
    return made


def command(folder: Path, core: str = CORE) -> list[str]:
    net, out = folder / "net.py", folder / ("out" if core == CORE else core)
    return [
        *(sys.executable, "-m", "edgewright.cli"),
        *("search", f"{net}:net", "--calibration", f"{net}:batches", "--target", "litert"),
        *("--profile", f"emulated-{core}", "--device", f"emulated:{core}"),
        *("--methods", "precision", "--latency-budget", "0.8x", "--json"),
        *("--out", str(out), "--database", str(folder / "m.db")),
    ]


def searched(folder: Path, core: str = CORE):
    """Search to the end; returns the document."""
    done = subprocess.run(command(folder, core), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def interrupted(folder):
    """A search stopped by Ctrl-C once its variants are lowered; returns its exit code."""
    with subprocess.Popen(
        command(folder), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            if "runners are warm" in line:
                os.kill(process.pid, signal.SIGINT)
                break
        process.stderr.read()
        process.stdout.read()
    return process.returncode


@pytest.fixture(scope="module")
def found(folder, interrupted):
    """How many programs were lowered before it was stopped, and the document of the same command run again."""
    return len(variants(folder)), searched(folder)


def variants(folder: Path) -> list[Path]:
    return [p for p in (folder / "out" / "work" / "variants").iterdir() if p.is_dir()]


def test_a_search_is_interrupted_goes_on_and_is_replayed(folder, interrupted, found):
    """One test: side by side, several would each make the search."""
    ends_with_130_and_keeps_the_work(interrupted, found)
    meets_the_budget_and_is_verified(folder, found)
    is_replayed_by_compile(folder)


@pytest.mark.slow  # a second search
def test_the_choice_for_one_core_misses_the_budget_on_another(folder, found):
    """A Cortex-A53 has no instruction for dot products of int8: one layer in int8 is not enough there."""
    [own] = [t for t in found[1]["tried"] if t["chosen"]]
    other = searched(folder, "cortex-a53")["tried"]
    [same] = [t for t in other if t["plan"] == own["plan"]]
    [chosen] = [t for t in other if t["chosen"]]
    assert own["within_budget"] and not same["within_budget"]
    assert chosen["within_budget"] and chosen["plan"].count("int8") > own["plan"].count("int8")


def ends_with_130_and_keeps_the_work(interrupted, found):
    before, document = found
    assert interrupted == 130
    assert before == 3  # float32 and what each precision makes of all that it can
    tried = {t["variant"] for t in document["tried"]}
    assert {"float32", "int8", "int8_dynamic", "int8 in 1", "int8_dynamic in 1", "int8 in 3"} < tried


def meets_the_budget_and_is_verified(folder, found):
    _, document = found
    out = folder / "out"
    assert document["plan"]["ratio_high"] <= 0.8
    [chosen] = [t for t in document["tried"] if t["chosen"]]
    alike = [t for t in document["tried"] if t["variant"] in ("int8", "int8_dynamic")]
    assert len(alike) == 2 and chosen["within_budget"]
    assert all(chosen["cost"]["mean"] < t["cost"]["mean"] for t in alike)
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
    common = [
        "compile",
        f"{net}:net",
        "--profile",
        f"emulated-{CORE}",
        "--target",
        "litert",
        "--plan",
        str(plan),
    ]
    assert main([*common, "--calibration", f"{net}:batches", "--out", str(replayed)]) == 0
    own, searched = (
        json.loads((p / "manifest.json").read_text()) for p in (replayed, folder / "out" / "artifact")
    )
    assert own["plan"] == searched["plan"]
    assert own["methods"][0]["operations"] == searched["methods"][0]["operations"]
