"""The passes that drop what computes nothing, and compute what is the same once."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compiler.evaluate import evaluate
from compiler.ir.text import parse_graph
from compiler.passes.common import share_computations
from tests.models.small import compile_graph, error

pytestmark = pytest.mark.core


def compiled(module: nn.Module, *inputs: torch.Tensor) -> dict[str, int]:
    """Return short op name -> count after the passes, in float64, checked against the module."""
    torch.manual_seed(0)
    module = copy.deepcopy(module).double().eval()
    graph = compile_graph(module, *(x.double() for x in inputs))
    assert error(graph, module, inputs) < 1e-9
    return {op.split(".")[1]: count for op, count in graph.histogram().items()}


class Weighted(nn.Module):
    """`zero * f(x) + one * g(x)`, as a schedule leaves it."""

    def __init__(self, zero: float, one: float) -> None:
        super().__init__()
        self.f, self.g = nn.Linear(6, 6), nn.Linear(6, 6)
        self.register_buffer("zero", torch.tensor(zero))
        self.register_buffer("one", torch.tensor(one))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.zero * torch.tanh(self.f(x)) + self.one * torch.sin(self.g(x)) / 1.0


@pytest.mark.parametrize(
    ("zero", "one", "left"),
    [(0.0, 1.0, {"linear": 1, "sin": 1}), (0.1, 1.0, {"linear": 2, "sin": 1, "tanh": 1, "mul": 1, "add": 1})],
)
def test_a_branch_weighted_by_zero_goes_and_no_other(zero: float, one: float, left: dict[str, int]) -> None:
    assert compiled(Weighted(zero, one), torch.randn(3, 6)) == left


class Twice(nn.Module):
    """The same computation twice, and two random draws that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.linear(x)) * torch.sigmoid(torch.tanh(self.linear(x)))


def test_the_same_computation_runs_once() -> None:
    assert compiled(Twice(), torch.randn(3, 6)) == {"linear": 1, "tanh": 1, "silu": 1}


class Gates(nn.Module):
    """`e a + e b` with gates of one number a row: the gates add up first."""

    def forward(self, e: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return e * a + b * e


def test_common_factors_are_taken_out_where_they_are_larger() -> None:
    e = torch.randn(3, 6)
    assert compiled(Gates(), e, torch.randn(3, 1), torch.randn(3, 1)) == {"add": 1, "mul": 1}
    assert compiled(Gates(), torch.randn(3, 1), e, torch.randn(3, 6)) == {"add": 1, "mul": 2}


class Router(nn.Module):
    """A softmax over logits of which some are minus infinity; each probability is read alone."""

    def __init__(self, mask: list[bool]) -> None:
        super().__init__()
        self.router = nn.Linear(6, len(mask))
        self.experts = nn.ModuleList(nn.Linear(6, 5) for _ in mask)
        self.register_buffer("mask", torch.tensor(mask))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gates = self.router(x).masked_fill(self.mask, -math.inf).softmax(-1)
        return sum(F.relu(e(x)) * gates[:, i : i + 1] for i, e in enumerate(self.experts))


@pytest.mark.parametrize(("mask", "experts"), [([False, True, False], 2), ([False, False, False], 3)])
def test_an_expert_that_is_never_selected_is_not_run(mask: list[bool], experts: int) -> None:
    counts = compiled(Router(mask), torch.randn(4, 6))
    assert counts["relu"] == experts


def test_one_logit_is_certain() -> None:
    counts = compiled(Router([False]), torch.randn(4, 6))
    assert counts == {"linear": 1, "relu": 1}


class DeadRows(nn.Module):
    """Two channels of zeros between two linear layers; `f` may not keep them zero."""

    def __init__(self, f: nn.Module, bias: float = 0.0) -> None:
        super().__init__()
        self.first, self.f, self.second = nn.Linear(6, 8), f, nn.Linear(8, 5)
        with torch.no_grad():
            self.first.weight[2:4] = 0
            self.first.bias[2:4] = bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.f(self.first(x)))


@pytest.mark.parametrize(
    ("module", "width"),
    [
        (DeadRows(nn.GELU()), 6),
        (DeadRows(nn.GELU(), 0.3), 8),
        (DeadRows(nn.Sigmoid()), 8),
        (DeadRows(nn.Softmax(-1)), 8),
    ],
    ids=["gelu", "a bias", "sigmoid", "softmax"],
)
def test_channels_of_zeros_are_dropped_where_they_stay_zero(module: nn.Module, width: int) -> None:
    x = torch.randn(3, 6)
    wide = copy.deepcopy(module).double().eval()
    graph = compile_graph(wide, x.double())
    first = next(n for n in graph.ops() if n.op == "aten.linear.default")
    assert first.type.shape == (3, width)
    assert error(graph, wide, (x,)) < 1e-9


class Product(nn.Module):
    """A product with a weight that is read once, or with one that is read both ways."""

    def __init__(self, both: bool) -> None:
        super().__init__()
        self.weight, self.both = nn.Parameter(torch.randn(6, 6)), both

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(x @ self.weight)
        return torch.tanh(y @ self.weight.mT) if self.both else y


def test_a_product_with_a_weight_is_a_linear_unless_the_weight_would_be_stored_twice() -> None:
    assert compiled(Product(False), torch.randn(3, 6)) == {"linear": 1, "tanh": 1}
    assert compiled(Product(True), torch.randn(3, 6)) == {"matmul": 1, "linear": 1, "tanh": 2}


class Lookup(nn.Module):
    """Tokens through a table and one or two linear layers; `tied` reads the table again."""

    def __init__(self, width: int, *, tied: bool = False, layers: int = 1) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 6)
        sizes = [6, *(width,) * layers]
        self.layers = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(sizes)))
        self.tied = tied

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(self.layers(self.table(tokens)))
        return y @ self.table.weight.mT if self.tied else y


TOKENS = torch.tensor([[3, 1, 4, 15], [9, 2, 6, 5]])


def looked_up(module: nn.Module) -> dict[str, int]:
    torch.manual_seed(1)
    module = module.double().eval()
    graph = compile_graph(module, TOKENS)
    with torch.no_grad():
        assert torch.allclose(evaluate(graph, [TOKENS])[0], module(TOKENS), rtol=0, atol=1e-12)
    return {op.split(".")[1]: count for op, count in graph.histogram().items()}


def test_linear_layers_behind_a_lookup_become_its_table() -> None:
    assert looked_up(Lookup(6, layers=2)) == {"embedding": 1, "tanh": 1}


def test_a_table_that_would_grow_or_is_tied_stays() -> None:
    assert looked_up(Lookup(40))["linear"] == 1
    assert looked_up(Lookup(6, tied=True)) == {"embedding": 1, "linear": 2, "tanh": 1}


def test_each_reader_of_an_int8_weight_keeps_its_own_dequantise() -> None:
    text = """graph {
  %w = constant "w" : int8[4, 4]
  %x = input : float32[2, 4]
  %a = quantized_decomposed.dequantize_per_tensor.default(input=%w, scale=0.5, zero_point=0, quant_min=-127, quant_max=127, dtype=dtype.int8, out_dtype=none) : float32[4, 4]
  %b = quantized_decomposed.dequantize_per_tensor.default(input=%w, scale=0.5, zero_point=0, quant_min=-127, quant_max=127, dtype=dtype.int8, out_dtype=none) : float32[4, 4]
  %u = aten.linear.default(input=%x, weight=%a, bias=none) : float32[2, 4]
  %v = aten.linear.default(input=%u, weight=%b, bias=none) : float32[2, 4]
  return(r0=%v)
}
"""
    graph = share_computations(parse_graph(text))
    assert [graph.node(name).operand("weight").node for name in ("u", "v")] == ["a", "b"]
