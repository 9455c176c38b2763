"""Activations written in parts are named; functions that only resemble one are left."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compiler.ir.edit import Editor
from compiler.ir.graph import TensorType
from compiler.passes.activations import name_activations
from tests.models.graphs import ops, relative_error, through_passes

pytestmark = pytest.mark.core

Function = Callable[["Net", torch.Tensor], torch.Tensor]
TANH = math.sqrt(2 / math.pi)
X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)) * 4


class Net(nn.Module):
    """A function of a linear layer, with constants as exporters store them."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.linear, self.function = nn.Linear(6, 6), function
        self.register_buffer("root2", torch.tensor(2.0).sqrt())
        self.register_buffer("sixth", torch.tensor([1 / 6]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, self.linear(x))


WRITTEN: dict[str, tuple[str, Function]] = {
    "gelu by erf": ("gelu", lambda m, x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))),
    "gelu by erf, stored": ("gelu", lambda m, x: x * (torch.erf(x / m.root2) + 1) * 0.5),
    "gelu by tanh": ("gelu", lambda m, x: 0.5 * x * (1 + torch.tanh(TANH * (x + 0.044715 * x.pow(3))))),
    "gelu by products": (
        "gelu",
        lambda m, x: 0.5 * x * (1 + torch.tanh(x * TANH * (1 + 0.044715 * x * x))),
    ),
    "silu": ("silu", lambda m, x: x * torch.sigmoid(x)),
    "silu by exp": ("silu", lambda m, x: x / (1 + torch.exp(-x))),
    "hardswish by relu6": ("hardswish", lambda m, x: x * F.relu6(x + 3) / 6),
    "hardswish by clamp": ("hardswish", lambda m, x: x * torch.clamp(x * m.sixth + 0.5, 0, 1)),
    "hardsigmoid": ("hardsigmoid", lambda m, x: F.hardtanh(x + 3, 0, 6) * m.sixth),
    "mish": ("mish", lambda m, x: x * torch.tanh(F.softplus(x))),
    "sigmoid": ("sigmoid", lambda m, x: 1 / (1 + torch.exp(-x))),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_spelled_activation_is_one_operation(name: str) -> None:
    wanted, function = WRITTEN[name]
    net = Net(function).eval()
    graph = through_passes(net, X)
    assert ops(graph) == ["linear", wanted]
    assert relative_error(graph, net, [X]) < 1e-6


@pytest.mark.parametrize("form", ["none", "tanh"])
def test_the_two_gelus_are_told_apart(form: str) -> None:
    _, function = WRITTEN["gelu by erf" if form == "none" else "gelu by tanh"]
    [node] = [n for n in through_passes(Net(function), X).ops() if "gelu" in n.op]
    assert node.operand("approximate") == form


def test_what_is_around_it_stays() -> None:
    graph = through_passes(Net(lambda m, x: 3 * (2 * x * torch.sigmoid(2 * x)) + x), X)
    assert "silu" in ops(graph)
    assert "sigmoid" not in ops(graph)


def test_a_part_that_is_read_elsewhere_stays_for_its_reader() -> None:
    class Both(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            gate = torch.sigmoid(y)
            return y * gate + gate

    net = Both(lambda m, x: x).eval()
    graph = through_passes(net, X)
    assert sorted(ops(graph)) == ["add", "linear", "sigmoid", "silu"]
    assert relative_error(graph, net, [X]) < 1e-6


def test_a_chain_longer_than_any_activation_is_walked_only_so_far() -> None:
    editor = Editor()
    type_ = TensorType((2, 3), torch.float32)
    left, right = editor.input("x", type_), editor.input("y", type_)
    for _ in range(700):
        left, right = (editor.op("aten.tanh.default", {"self": v}, [type_]) for v in (left, right))
    editor.output([editor.op("aten.mul.Tensor", {"self": left, "other": right}, [type_])])
    graph = editor.finish()
    assert name_activations(graph) == graph


KEPT: dict[str, Function] = {
    "a quick gelu": lambda m, x: x * torch.sigmoid(1.702 * x),
    "another bend": lambda m, x: 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.044715 * x.pow(3)))),
    "a gate of another value": lambda m, x: m.linear(x) * torch.sigmoid(x),
    "another bound": lambda m, x: x * torch.clamp(x / 6 + 0.5, 0, 0.9999),
    "a constant for each channel": lambda m, x: x * torch.sigmoid(x * m.linear.bias),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_only_resembles_an_activation_is_left(name: str) -> None:
    net = Net(KEPT[name]).eval()
    graph = through_passes(net, X)
    assert not {"gelu", "silu", "hardswish", "mish"} & set(ops(graph))
    assert relative_error(graph, net, [X]) < 1e-6
