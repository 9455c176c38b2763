"""Tied weights: stored once, computed once, read in place, and counted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compiler.evaluate import evaluate
from compiler.frontends.torch_export import import_model
from compiler.ir.text import parse_graph
from compiler.ir.verify import verify
from compiler.passes.canonicalize import canonicalize
from compiler.passes.dead_code import dead_code
from compiler.passes.fold_weights import fold_weights
from compiler.passes.share import share, tied
from tests.models.graphs import ops, relative_error, stored_bytes, through_passes


class Twice(nn.Module):
    """Two layers with equal weights that are not tied, one with others, and one of another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.d = nn.Linear(6, 6)
        self.b.load_state_dict(self.a.state_dict())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.relu(self.d(torch.relu(self.b(torch.relu(self.a(x)))))))


def test_equal_weights_are_stored_once() -> None:
    torch.manual_seed(0)
    module, x = Twice().eval(), torch.randn(3, 6)
    graph = import_model(module, (x,))
    shared = share(graph)
    verify(shared)
    assert stored_bytes(graph) - stored_bytes(shared) == 4 * (36 + 6)
    assert tied(shared) == {"a_weight": 2, "a_bias": 2}
    assert tied(graph) == {}
    assert relative_error(shared, module, [x]) < 1e-12


def test_equal_bytes_of_another_type_are_not_equal() -> None:
    text = """graph {
      %x = input : float32[2, 3]
      %a = constant "0" : float32[2, 3]
      %b = constant "0" : float32[3, 2]
      %t = aten.permute.default(self=%b, dims=[1, 0]) : float32[2, 3]
      %y = aten.add.Tensor(self=%x, other=%a) : float32[2, 3]
      %z = aten.mul.Tensor(self=%y, other=%t) : float32[2, 3]
      return(r0=%z)
    }"""
    numbers = torch.randn(6)
    graph = parse_graph(text, {"a": numbers.reshape(2, 3), "b": numbers.reshape(3, 2)})
    shared = share(graph)
    assert stored_bytes(shared) == stored_bytes(graph)
    x = torch.randn(2, 3)
    torch.testing.assert_close(evaluate(shared, [x])[0], evaluate(graph, [x])[0])


def test_what_several_layers_compute_from_a_tied_weight_is_computed_once() -> None:
    class Generated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core = nn.Parameter(torch.randn(5, 5))

        def weight(self) -> torch.Tensor:
            return torch.linalg.matrix_exp(self.core - self.core.t())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x @ self.weight()) @ self.weight() + torch.sin((x + 1) @ self.weight())

    torch.manual_seed(0)
    module, x = Generated().eval(), torch.randn(2, 5)
    graph = through_passes(module, x)
    assert ops(graph).count("linalg_matrix_exp") == 0
    assert stored_bytes(graph) == 4 * 25
    assert list(tied(graph).values()) == [3]
    assert relative_error(graph, module, [x]) < 1e-6


def test_random_numbers_are_drawn_each_time() -> None:
    text = """graph {
      %x = input : float32[4, 4]
      %p = aten.randperm.default(n=4) : int64[4]
      %q = aten.randperm.default(n=4) : int64[4]
      %y = aten.index_select.default(self=%x, dim=0, index=%p) : float32[4, 4]
      %z = aten.index_select.default(self=%y, dim=0, index=%q) : float32[4, 4]
      return(r0=%z)
    }"""
    assert ops(share(parse_graph(text))).count("randperm") == 2


@pytest.mark.parametrize("also_read", [True, False])
def test_a_tied_weight_is_read_in_place_by_its_transposed_reader(also_read: bool) -> None:
    class Head(nn.Module):
        """A language model's head tied to its embedding, as a product with the transposition."""

        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(300, 64)

        def forward(self, ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            hidden = x + self.embedding(ids) if also_read else x
            return hidden @ self.embedding.weight.t()

    torch.manual_seed(0)
    module, ids, x = Head().eval(), torch.randint(0, 300, (2, 3)), torch.randn(2, 3, 64)
    graph = through_passes(module, ids, x)
    assert stored_bytes(graph) == 4 * 300 * 64
    assert ("linear" in ops(graph)) or not also_read
    torch.testing.assert_close(evaluate(graph, [ids, x])[0], module(ids, x))


def test_readers_are_counted_through_what_only_moves_elements() -> None:
    text = """graph {
      %x = input : float32[2, 3]
      %w = constant "0" : float32[3, 2]
      %t = aten.permute.default(self=%w, dims=[1, 0]) : float32[2, 3]
      %e = aten.expand.default(self=%t, size=[2, 3]) : float32[2, 3]
      %y = aten.add.Tensor(self=%x, other=%e) : float32[2, 3]
      %z = aten.mul.Tensor(self=%y, other=%t) : float32[2, 3]
      %v = aten.matmul.default(self=%z, other=%w) : float32[2, 2]
      return(r0=%v)
    }"""
    assert tied(parse_graph(text)) == {"w": 3}


@pytest.mark.parametrize(("width", "kept"), [(256, True), (16, False)])
def test_folding_a_movement_does_not_store_a_large_tied_weight_twice(width: int, kept: bool) -> None:
    class Reversed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(width, width))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x @ self.weight).mul(x) + x * self.weight.t()[0] * self.weight.t()

    torch.manual_seed(0)
    module, x = Reversed().eval(), torch.randn(width, width)
    graph = dead_code(fold_weights(share(canonicalize(import_model(module, (x,))))))
    verify(graph)
    assert ("permute" in ops(graph)) == kept
    assert relative_error(graph, module, [x]) < 1e-6
