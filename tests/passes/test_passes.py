"""Canonical form, weight-only folding and dead code: golden text and executed equality."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from compiler.evaluate import evaluate
from compiler.ir.text import parse_graph
from compiler.ir.verify import verify
from compiler.passes.canonicalize import canonicalize
from compiler.passes.dead_code import dead_code
from compiler.passes.fold_weights import fold_weights
from tests.models.small import compile_graph, error


def _ops(graph) -> list[str]:
    return [n.op.split(".")[1] for n in graph.ops()]


def test_permutes_of_axes_of_one_element_are_reshapes_and_vanish_in_pairs() -> None:
    text = """graph {
      %x = input : float32[1, 4, 6]
      %a = aten.permute.default(self=%x, dims=[1, 0, 2]) : float32[4, 1, 6]
      %b = aten.permute.default(self=%a, dims=[2, 1, 0]) : float32[6, 1, 4]
      %c = aten.permute.default(self=%b, dims=[2, 1, 0]) : float32[4, 1, 6]
      %d = aten.permute.default(self=%c, dims=[1, 0, 2]) : float32[1, 4, 6]
      %e = aten.relu.default(self=%d) : float32[1, 4, 6]
      %f = aten.permute.default(self=%e, dims=[1, 2, 0]) : float32[4, 6, 1]
      %g = aten.permute.default(self=%f, dims=[2, 0, 1]) : float32[1, 4, 6]
      %h = aten.permute.default(self=%g, dims=[1, 0, 2]) : float32[4, 1, 6]
      return(r0=%h)
    }"""
    graph = dead_code(canonicalize(parse_graph(text)))
    assert _ops(graph) == ["relu", "reshape"]
    x = torch.randn(1, 4, 6)
    torch.testing.assert_close(evaluate(graph, [x])[0], x.relu().permute(1, 0, 2))
    assert _ops(canonicalize(graph)) == _ops(graph)


def test_aliases_and_inverse_permutes_vanish() -> None:
    text = """graph {
      %x = input : float32[2, 3, 4]
      %a = aten.clone.default(self=%x) : float32[2, 3, 4]
      %b = aten.dropout.default(input=%a, p=0.5, train=false) : float32[2, 3, 4]
      %c = aten.transpose.int(self=%b, dim0=1, dim1=-1) : float32[2, 4, 3]
      %d = aten.permute.default(self=%c, dims=[0, -1, 1]) : float32[2, 3, 4]
      %e = aten.relu.default(self=%d) : float32[2, 3, 4]
      %f = aten.view.default(self=%e, size=[6, 4]) : float32[6, 4]
      %g = aten.reshape.default(self=%f, shape=[2, 12]) : float32[2, 12]
      return(r0=%g)
    }"""
    graph = dead_code(canonicalize(parse_graph(text)))
    verify(graph)
    assert _ops(graph) == ["relu", "reshape"]
    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(evaluate(graph, [x])[0], x.relu().reshape(2, 12))


def test_a_transposition_that_is_not_undone_stays() -> None:
    text = """graph {
      %x = input : float32[3, 3, 3]
      %c = aten.permute.default(self=%x, dims=[1, 2, 0]) : float32[3, 3, 3]
      %d = aten.permute.default(self=%c, dims=[1, 2, 0]) : float32[3, 3, 3]
      return(r0=%d)
    }"""
    graph = dead_code(canonicalize(parse_graph(text)))
    assert _ops(graph) == ["permute"]
    x = torch.randn(3, 3, 3)
    torch.testing.assert_close(evaluate(graph, [x])[0], x.permute(2, 0, 1))


def test_dropout_that_drops_stays() -> None:
    text = """graph {
      %x = input : float32[2]
      %b = aten.dropout.default(input=%x, p=0.5, train=true) : float32[2]
      return(r0=%b)
    }"""
    assert _ops(canonicalize(parse_graph(text))) == ["dropout"]


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_weight_parametrisations_fold_to_one_linear(norm) -> None:
    torch.manual_seed(0)
    module = norm(nn.Linear(6, 4)).eval()
    nn.init.normal_(next(p for p in module.parameters() if p.dim() == 2))
    x = torch.randn(3, 6)
    graph = compile_graph(module, x)
    assert _ops(graph) == ["linear"]
    assert error(graph, module, [x]) < 1e-6


def test_random_cones_and_expansions_are_left_alone() -> None:
    text = """graph {
      %x = input : float32[4, 4]
      %p = aten.randperm.default(n=4) : int64[4]
      %s = aten.sort.default(self=%p) : int64[4] | int64[4]
      %y = aten.index_select.default(self=%x, dim=0, index=%s#1) : float32[4, 4]
      %one = aten.full.default(size=[1, 4], fill_value=2.0) : float32[1, 4]
      %wide = aten.expand.default(self=%one, size=[4, 4]) : float32[4, 4]
      %z = aten.mul.Tensor(self=%y, other=%wide) : float32[4, 4]
      return(r0=%z)
    }"""
    graph = fold_weights(parse_graph(text))
    verify(graph)
    assert _ops(graph) == ["randperm", "sort", "index_select", "expand", "mul"]


def test_folding_rounds_once_but_buckets_as_the_model_does() -> None:
    class Buckets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([0.1, 0.7, 0.3]))
            self.table = nn.Parameter(torch.randn(16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            index = (self.scale * 10).long()  # 0.7f * 10 is 7 in float32 and 6.99 in float64
            return x * self.table[index] + self.scale.exp().sqrt()

    module, x = Buckets().eval(), torch.randn(2, 3)
    graph = compile_graph(module, x)
    assert _ops(graph) == ["mul", "add"]
    torch.testing.assert_close(evaluate(graph, [x])[0], module(x))
    exact = module.scale.detach().double().exp().sqrt().float()
    assert any(torch.equal(c.tensor, exact) for c in graph.constants.values())


def test_dead_branches_go_and_inputs_stay() -> None:
    text = """graph {
      %x = input : float32[2]
      %unused = input : float32[2]
      %a = aten.relu.default(self=%x) : float32[2]
      %b = aten.exp.default(self=%a) : float32[2]
      return(r0=%a)
    }"""
    graph = dead_code(parse_graph(text))
    assert [n.name for n in graph.nodes()] == ["x", "unused", "a", "output"]
    assert dead_code(graph) is graph
