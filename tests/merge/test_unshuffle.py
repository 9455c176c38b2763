"""Patches laid out as channels: a matrix behind them is a convolution with kernel and stride of the patch."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compiler.merge import merge
from tests.models.small import Function, compile_graph, error, randomize

pytestmark = pytest.mark.core

X = torch.randn(2, 3, 8, 12)


def patchify(x: torch.Tensor, size: int = 4, last: bool = True) -> torch.Tensor:
    """Return [N, tokens, size * size * C], or the channels ahead of the pixels of a patch."""
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // size, size, w // size, size)
    order = (0, 2, 4, 3, 5, 1) if last else (0, 2, 4, 1, 3, 5)
    return parts.permute(order).reshape(n, h * w // size**2, c * size**2)


CASES = {
    "pixel unshuffle": (
        nn.Sequential(nn.BatchNorm2d(3), nn.PixelUnshuffle(2), nn.Conv2d(12, 5, 1)),
        {"conv2d": 1},
    ),
    "a convolution on both sides": (
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.PixelUnshuffle(2), nn.Conv2d(12, 5, 1), nn.BatchNorm2d(5)),
        {"conv2d": 1},
    ),
    "patches by reshapes": (
        Function(lambda x, norm, linear: linear(patchify(norm(x))), nn.BatchNorm2d(3), nn.Linear(48, 16)),
        {"conv2d": 1, "permute": 1},
    ),
    "patches by reshapes, channels first": (
        Function(lambda x, linear: linear(patchify(x, last=False)), nn.Linear(48, 16)),
        {"conv2d": 1, "permute": 1},
    ),
    "overlapping windows are none": (
        Function(lambda x, linear: linear(F.unfold(x, 3).transpose(1, 2)), nn.Linear(27, 4)),
        {"im2col": 1, "permute": 1, "conv1d": 1},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_matrix_behind_patches_is_a_convolution(name: str) -> None:
    module, after = CASES[name]
    module = randomize(module, 2).double().eval()
    graph, _ = merge(compile_graph(module, X.double()))
    counts = {op.split(".")[1]: count for op, count in graph.histogram().items() if "reshape" not in op}
    assert counts == after
    assert error(graph, module, [X.double()]) < 1e-9


@pytest.mark.parametrize("order", [(0, 4, 2, 3, 5, 1), (2, 0, 4, 3, 5, 1)])
def test_patches_in_another_order_are_no_convolution_alone(order: tuple[int, ...]) -> None:
    def turned(x: torch.Tensor, linear: nn.Module) -> torch.Tensor:
        n, c, h, w = x.shape
        parts = x.reshape(n, c, h // 4, 4, w // 4, 4).permute(order)
        return linear(parts.reshape(-1, 6, 48))

    module = randomize(Function(turned, nn.Linear(48, 7)), 2).double().eval()
    graph, _ = merge(compile_graph(module, X.double()))
    assert error(graph, module, [X.double()]) < 1e-9


def test_a_window_partition_stays_a_movement() -> None:
    """Its channels stay together, so that the norm folds into the matrix behind it."""

    def windows(x: torch.Tensor, norm: nn.Module, linear: nn.Module) -> torch.Tensor:
        n, c, h, w = x.shape
        parts = norm(x).reshape(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1)
        return linear(parts.reshape(-1, 16, c))

    module = randomize(Function(windows, nn.BatchNorm2d(3), nn.Linear(3, 7)), 2).double().eval()
    graph, _ = merge(compile_graph(module, X.double()))
    assert not any("batch_norm" in op or "mul" in op for op in graph.histogram())
    assert error(graph, module, [X.double()]) < 1e-9
