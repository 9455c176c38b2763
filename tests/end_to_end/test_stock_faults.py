"""Models on which stock ExecuTorch 1.4.1 is silently wrong or crashes, the stock result beside ours.

Each stock result is asserted too: a fix upstream turns its test red, and the note in the facts can go.
"""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import edgewright as ew
from compiler.records import Artifact
from edgewright.runtime import infer
from profiles import load_profile
from targets import get_target
from tests.models.small import randomize

X = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
pytestmark = pytest.mark.filterwarnings("ignore")  # the SDK's own


class SharedConvolution(nn.Module):
    """One convolution under two BatchNorms: the head of many detectors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.a, self.b = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return F.relu(self.a(self.conv(x))), F.relu(self.b(self.conv(-x)))


class Inner(nn.Module):
    """A convolution whose parameter is called `b.0.weight`."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))


class NamesFlattenAlike(nn.Module):
    """`a.b.0.weight` and `a_b.0.weight`."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.a_b = Inner(), nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.a.b(x)) + F.relu(self.a_b(2 * x))


class Branches(nn.Module):
    """Two convolutions with BatchNorm and a BatchNorm, summed, in a numbered container."""

    def __init__(self) -> None:
        super().__init__()
        self.big = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        self.small = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4))
        self.skip = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.big(x) + self.small(x) + self.skip(x))


def numbered() -> nn.Module:
    """A plain nn.Sequential, whose names begin with a digit."""
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), Branches(), Branches())


def stock(module: nn.Module, folder: Path) -> list[torch.Tensor]:
    """Return what stock ExecuTorch with XNNPACK computes, in a process of its own."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(copy.deepcopy(module), (X,))
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        buffer = lowered.to_executorch().buffer
    folder.mkdir()
    (folder / "model.pte").write_bytes(buffer)
    shape = {"shape": list(X.shape), "dtype": "float32"}
    count = len(program.graph_signature.user_outputs)
    call = {
        "inputs": [{"name": "x"} | shape],
        "outputs": [{"name": f"y{i}"} | shape for i in range(count)],
    }
    document = {"schema": "edgewright.executorch.io/2", "methods": {"forward": call}, "kernels": []}
    (folder / "io.json").write_text(json.dumps(document))
    return infer(Artifact(folder, {}), get_target("executorch"), load_profile("host"), [[X]])[0]


def stock_error(module: nn.Module, folder: Path) -> float:
    """Return the largest absolute error of the stock result."""
    with torch.no_grad():
        wanted = module(X)
    wanted = [wanted] if isinstance(wanted, torch.Tensor) else wanted
    return max(float((a - b).abs().max()) for a, b in zip(stock(module, folder), wanted, strict=True))


@pytest.mark.parametrize("module", [SharedConvolution(), NamesFlattenAlike()], ids=lambda m: type(m).__name__)
def test_silently_wrong_in_stock_and_right_here(module: nn.Module, tmp_path) -> None:
    module = randomize(module, 1)
    artifact = ew.compile(module, inputs=X, out=tmp_path / "out")
    assert artifact.manifest["verification"]["max_abs_error"] < 1e-4
    assert stock_error(module, tmp_path / "stock") > 0.1


def test_crashes_stock_and_compiles_here(tmp_path) -> None:
    module = randomize(numbered(), 1)
    artifact = ew.compile(module, inputs=X, out=tmp_path / "out")
    assert artifact.manifest["verification"]["passed"]
    assert (artifact.folder / "graph_forward.txt").read_text().count("aten.conv2d.default") == 3
    with pytest.raises(Exception, match="FuseBatchNormPass"):
        stock(module, tmp_path / "stock")


def test_a_convolution_used_twice_with_one_batch_norm(tmp_path) -> None:
    class UsedTwice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(F.relu(self.norm(self.conv(x))))

    module = randomize(UsedTwice(), 1)
    artifact = ew.compile(module, inputs=X, out=tmp_path / "out")
    assert artifact.manifest["verification"]["max_abs_error"] < 1e-4
