"""`--target auto`: all targets built and measured in one run, the fastest kept, the table of all in the report."""

import json

import pytest

from edgewright.artifact import read_artifact
from edgewright.cli import main
from targets import list_targets

NET = """import torch
from torch import nn
class Counted(nn.Module):
    def forward(self, x):
        return torch.histc(nn.functional.relu(x), 8, 0, 1)
class Inverse(nn.Module):
    def forward(self, x):
        return torch.linalg.inv(x[0, 0])
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval(), (torch.randn(1, 3, 16, 16),)
def counted():
    return Counted().eval(), (torch.randn(1, 3, 8, 8),)
def inverse():
    return Inverse().eval(), (torch.randn(1, 3, 8, 8),)
"""


@pytest.fixture
def compiled(tmp_path, capsys):
    """The command line on a model of NET: exit code, stdout, stderr, the folder asked for."""
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "quick.toml").write_text(
        '[device]\nname = "quick"\ndescription = "this machine, few samples"\n[reach]\ntransport = "local"\n'
        f"[run]\ntargets = {json.dumps(list(list_targets()))}\nthreads = 1\n"
        "[protocol]\nsettle_s = 0.0\nwarmup_s = 0.1\nwarmup_max_s = 0.5\nmin_rounds = 5\nmax_rounds = 8\nmax_seconds = 4.0\n"
    )

    def run(name, *options):
        out = tmp_path / "out"
        arguments = ["compile", f"{tmp_path / 'net.py'}:{name}", "--profile", str(tmp_path / "quick.toml")]
        code = main([*arguments, "--target", "auto", "--out", str(out), *options])
        return code, *capsys.readouterr(), out

    return run


def test_every_target_is_measured_and_the_fastest_is_kept(compiled):
    code, shown, _, out = compiled("net")
    assert code == 0 and "targets compared" in shown and "(untuned)" in shown
    artifact = read_artifact(out)
    rows = artifact.manifest["compared"]
    assert {row["target"] for row in rows} == set(list_targets())
    assert all(row["outcome"] == "verified" for row in rows)
    places = [(not row["stable"], row["median_ns"]) for row in rows]  # the unsteady stand behind
    assert places == sorted(places)
    assert artifact.manifest["target"] == rows[0]["target"] and artifact.manifest["verification"]["passed"]
    assert {p.name for p in out.parent.iterdir()} == {"net.py", "quick.toml", "out"}


def test_a_target_that_refuses_is_told_with_its_reason(compiled):
    code, shown, _, out = compiled("counted")
    assert code == 0
    rows = {row["target"]: row for row in json.loads((out / "manifest.json").read_text())["compared"]}
    assert rows["litert"]["outcome"] == "UnsupportedModelError" and "histc" in rows["litert"]["reason"]
    assert rows["onnxruntime"]["outcome"] == rows["tvm"]["outcome"] == "verified"
    assert "histc" in shown


def test_a_model_that_no_target_takes_leaves_nothing(compiled):
    code, _, told, out = compiled("inverse")
    assert code == 3 and all(f"{name}: " in told for name in list_targets()) and not out.exists()
    assert {p.name for p in out.parent.iterdir()} == {"net.py", "quick.toml"}
