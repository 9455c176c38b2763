"""The judge of this folder can fail: each of its settings says no to what is not so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compiler.frontends.torch_export import import_model
from compiler.merge import Outcome
from tests.methods.judge import compiled, error_of, multiply_accumulates, sample, scramble
from tests.methods.method import Built


class Tuned(nn.Module):
    """`x W omega`: everything but x is constant once omega is."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 5, bias=False)

    def forward(self, x: torch.Tensor, omega: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * omega


def _pair() -> Built:
    return scramble(nn.Sequential(nn.Linear(7, 6), nn.Linear(6, 5))), (sample(3, 7),)


def test_stored_constants_are_counted() -> None:
    compiled(_pair(), constants=2)
    with pytest.raises(AssertionError):
        compiled(_pair(), constants=4)


def test_multiply_accumulates_are_bounded() -> None:
    compiled(_pair(), macs=3 * 7 * 5)
    with pytest.raises(AssertionError):
        compiled(_pair(), macs=3 * 7 * 5 - 1)


def test_an_einsum_costs_the_product_of_its_indices() -> None:
    class Contraction(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.einsum("nij,njk->nik", x, y)

    graph = import_model(Contraction().eval(), (torch.ones(2, 3, 5), torch.ones(2, 5, 7)))
    assert multiply_accumulates(graph) == 2 * 3 * 5 * 7


def test_a_frozen_input_leaves_the_graph_and_the_comparison_uses_its_value() -> None:
    module, omega = scramble(Tuned()), torch.tensor([1.5, -2.0, 0.5, 3.0, 1.0])
    graph, _, error = compiled((module, (sample(3, 7), torch.ones(5))), freeze={"omega": omega})
    assert [n.name for n in graph.inputs()] == ["x"] and error < 1e-12
    given = {"x": sample(3, 7).double(), "omega": 2 * omega.double()}
    assert error_of(graph, module.double(), given, argmax_only=False) > 0.1


class Chosen(nn.Module):
    """`x` times one of three scales; `wrong` reads the first whatever the index."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.scales, self.wrong = nn.Parameter(torch.empty(3)), wrong

    def forward(self, x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        return x * self.scales.index_select(0, torch.zeros_like(i) if self.wrong else i)


def test_an_index_has_another_value_in_the_second_call() -> None:
    module, x = scramble(Chosen()), sample(3, 2)
    assert compiled((module, (x, torch.tensor([0, 2]))))[2] < 1e-12
    with pytest.raises(AssertionError, match="state another value of"):
        compiled((module, (x, torch.tensor([1, 1]))))
    _, _, error = compiled((module, (x, torch.tensor([1, 1]))), other={"i": torch.tensor([0, 2])})
    assert error < 1e-12
    wrong = import_model(scramble(Chosen(wrong=True)).double(), (x.double(), torch.tensor([0, 0])))
    given = {"x": x.double(), "i": torch.tensor([0, 2])}
    assert error_of(wrong, module.double(), given, argmax_only=False) > 0.1


@pytest.mark.parametrize(("factor", "error"), [(1.0, 0.0), (3.0, 0.0), (-1.0, 1.0)])
def test_a_ranking_may_be_scaled_and_not_turned(factor: float, error: float) -> None:
    module = scramble(nn.Linear(7, 5)).double()
    changed = scramble(nn.Linear(7, 5)).double()
    with torch.no_grad():
        changed.weight.mul_(factor)
        changed.bias.mul_(factor)
    x = sample(3, 7).double()
    graph = import_model(changed.eval(), (x,))
    given = {graph.inputs()[0].name: x}
    assert error_of(graph, module, given, argmax_only=True) == error
    assert (error_of(graph, module, given, argmax_only=False) < 1e-12) == (factor == 1)


def test_what_the_import_refuses_is_a_refused_attempt() -> None:
    class Noise(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.randn_like(x)

    graph, attempts, _ = compiled((Noise(), (sample(3, 7),)))
    assert not graph.histogram()
    assert [a.outcome for a in attempts] == [Outcome.REFUSED] and "random" in attempts[0].reason
