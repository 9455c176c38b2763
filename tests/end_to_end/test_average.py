"""What `average` writes, `compile` takes: merged, lowered and verified like any other model."""

import json

import pytest
import torch

from edgewright.cli import main

MODEL = """
import torch
from torch import nn


class Soup(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 6)) for _ in range(2))

    def forward(self, x):
        order = torch.randperm(len(x))
        parts = [e(p) for e, p in zip(self.experts, x[order].chunk(2))]
        return x + torch.cat(parts)[order.argsort()]


def soup():
    torch.manual_seed(0)
    return Soup().eval(), (torch.randn(1, 3, 12, 12),)


def experts():
    torch.manual_seed(0)
    return Experts().eval(), (torch.randn(8, 6),)


def images():
    return [torch.randn(8, 3, 12, 12) for _ in range(2)]


def rows():
    return [torch.randn(8, 6) for _ in range(2)]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "m.py").write_text(MODEL)
    for index in range(2):
        torch.manual_seed(index)
        state = {
            "conv.weight": torch.randn(8, 3, 3, 3),
            "norm.weight": torch.randn(8),
            "norm.bias": torch.randn(8),
            "norm.running_mean": torch.randn(8),
            "norm.running_var": torch.rand(8) + 0.3,
            "norm.num_batches_tracked": torch.tensor(index),
            "head.weight": torch.randn(4, 8),
            "head.bias": torch.randn(4),
        }
        torch.save(state, tmp_path / f"{index}.pt")
    return tmp_path


@pytest.mark.parametrize("method", ["uniform", "experts"])
def test_an_average_compiles(folder, capsys, method):
    name, batches = ("soup", "images") if method == "uniform" else ("experts", "rows")
    paths = [f"--checkpoint={folder / f'{i}.pt'}" for i in range(2)] if name == "soup" else []
    source = folder / "m.py"
    options = ["--method", method, *paths, "--batches", f"{source}:{batches}", "-o", str(folder / "average")]
    assert main(["average", f"{source}:{name}", *options]) == 0
    capsys.readouterr()
    code = main(["compile", str(folder / "average" / "model.pt2"), "-o", str(folder / "out"), "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    manifest = json.loads(captured.out)
    assert manifest["verification"]["passed"]
    after = {op for op, count in manifest["methods"][0]["operations"].items() if count["after"]}
    assert not after & {"aten.batch_norm.default", "aten.randperm.default", "aten.index.Tensor"}
