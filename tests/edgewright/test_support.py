"""`explain --support`: what no target runs is told before anything is lowered, by operation and place."""

import json
from pathlib import Path

import pytest

from edgewright.cli import main
from edgewright.support import support
from targets import list_targets

pytestmark = pytest.mark.target

NET = """import torch
from torch import nn
class Counted(nn.Module):
    def forward(self, x):
        return torch.histc(x, 8, -1, 1)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.counted = nn.Conv2d(3, 4, 3), nn.LayerNorm((6, 6)), Counted()
    def forward(self, x):
        y = self.norm(self.conv(x))
        return self.counted(y), torch.linalg.inv(y[0, 0, :4, :4])
def net():
    return Net().eval(), (torch.randn(1, 3, 8, 8),)
def plain():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), (torch.randn(1, 3, 8, 8),)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path


def test_each_operation_is_told_with_its_place_who_refuses_it_and_what_helps(file):
    found = support(f"{file}:net")
    rows = {row["op"]: row for row in found["rows"]}
    histogram = rows["aten.histc.default"]
    assert set(histogram["refused"]) == {"executorch", "litert"} and histogram["taken_by"] == [
        "onnxruntime",
        "tvm",
    ]
    assert histogram["modules"] == ["counted"] and histogram["sources"] == [f"{file}:5"]
    assert histogram["help"].startswith("compile with --target onnxruntime or tvm")
    inverse = rows["aten.linalg_inv.default"]
    assert set(inverse["refused"]) == set(list_targets()) and inverse["help"].startswith(
        "no installed target"
    )
    norm = rows["aten.layer_norm.default"]
    assert norm["refused"] == {} and set(norm["outside"]) == {"executorch"} and norm["modules"] == ["norm"]
    assert all(text.startswith("refuses") for text in found["targets"].values())


def test_a_model_that_all_targets_take_has_no_rows(file):
    found = support(f"{file}:plain")
    assert found["rows"] == [] and set(found["targets"].values()) == {"runs it"}


def test_the_command_line_shows_it_and_prints_the_document(file, capsys):
    assert main(["explain", f"{file}:net", "--support"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "aten.histc.default x1" in shown and "litert refuses 3 operations" not in shown
    assert main(["explain", f"{file}:net", "--support", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "edgewright.support/1"
