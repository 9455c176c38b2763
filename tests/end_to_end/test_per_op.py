"""`profile --per-op`: each operation's time by the module of the user's model, where the runtime tells."""

import json
from pathlib import Path

import pytest

from edgewright.cli import main
from targets.tvm.processor import machine

ROOT = Path(__file__).parents[2]

NET = """import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)
    def forward(self, x):
        return self.head(nn.functional.hardswish(self.norm(self.stem(x))).mean((2, 3)))
def net():
    torch.manual_seed(0)
    return Net().eval(), (torch.randn(1, 3, 16, 16),)
"""


@pytest.fixture
def compiled(tmp_path, capsys):
    """An artifact of NET for a target."""
    (tmp_path / "net.py").write_text(NET)

    def run(target, *options):
        out, model = tmp_path / target, f"{tmp_path / 'net.py'}:net"
        assert main(["compile", model, "--target", target, "--out", str(out), *options]) == 0
        capsys.readouterr()
        return str(out)

    return run


def test_onnxruntime_times_each_operation_by_module(compiled, capsys):
    out = compiled("onnxruntime")
    assert main(["profile", out, "--per-op", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "edgewright.operations/1"
    modules = {row["module"] for row in document["operations"]}
    assert {"stem", "head"} <= modules
    times = [row["median_ns"] for row in document["operations"]]
    assert times == sorted(times, reverse=True) and all(t >= 0 for t in times)
    assert sum(row["share"] for row in document["operations"]) == pytest.approx(1)
    assert main(["profile", out, "--per-op"]) == 0
    assert "stem" in capsys.readouterr().out


def test_tvm_times_each_call_of_a_kernel_by_module(compiled, capsys):
    assert main(["profile", compiled("tvm"), "--per-op", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["operations"]
    names = [row["name"] for row in rows]
    assert any("conv2d" in name for name in names) and not any(name.startswith("vm.") for name in names)
    assert {"stem", "head"} <= {row["module"] for row in rows}
    assert all(row["node"] == row["nodes"][0] for row in rows)


def test_a_static_executable_times_each_call_of_a_kernel_by_module(compiled, capsys, tmp_path):
    host = (ROOT / "profiles" / "host.toml").read_text()
    (tmp_path / "stated.toml").write_text(host.replace("[device]", f'[device]\narch = "{machine()}"'))
    out = compiled("tvm", "--profile", str(tmp_path / "stated.toml"))
    assert json.loads((Path(out) / "manifest.json").read_text())["lowering"]["route"] == "static"
    assert main(["profile", out, "--per-op", "--profile", "host", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["operations"]
    assert {"stem", "head"} <= {row["module"] for row in rows}


@pytest.mark.parametrize("target", ["executorch", "litert"])
def test_a_runtime_that_gives_no_times_says_so(compiled, capsys, target):
    assert main(["profile", compiled(target), "--per-op"]) == 2
    assert "gives no times by operation" in capsys.readouterr().err
