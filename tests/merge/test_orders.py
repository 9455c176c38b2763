"""Orders of products by a table: two devices, two orders, both equal; where it knows too little, the prior."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from compiler.cost.kernel import Kernel, kernel_counts
from compiler.cost.latency_table import Entry, LatencyTable
from compiler.evaluate import evaluate
from compiler.ir.graph import Graph
from compiler.ir.text import print_graph
from compiler.merge import Attempt, Outcome, merge
from compiler.merge.open_choices import open_kernels
from compiler.records import Metric
from tests.models.small import compile_graph

pytestmark = pytest.mark.core


class Attention(nn.Module):
    """`(Q K^T) V` without a softmax; Q, K and V come from activations."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return (q.tanh() @ k.tanh().mT) @ v.tanh()


class Cores(nn.Module):
    """A matrix product operator of two cores."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(4, 6, 3)), nn.Parameter(torch.randn(3, 8, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.einsum("nij,ias->njas", x.tanh(), self.a)
        return torch.einsum("njas,sjb->nab", y, self.b)


class Mixed(nn.Module):
    """Two kernels mixed by the input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return w[0] * self.a(x) + w[1] * self.b(x)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


CASES: dict[str, tuple[nn.Module, tuple[torch.Tensor, ...], str]] = {
    "chain": (Attention(), (draw(2, 9, 8), draw(2, 9, 8), draw(2, 9, 8)), "product"),
    "contraction": (Cores(), (draw(5, 4, 8),), "contraction"),
    "mixture": (Mixed(), (draw(1, 4, 9, 9), draw(2)), "mixed kernels"),
}


def table(graph: Graph, cost: Callable[[Kernel], float], known: bool = True) -> LatencyTable:
    kernels = open_kernels(graph)
    entries = {k.text: Entry(cost(k), cost(k), cost(k)) for k in (kernels if known else kernels[1:])}
    return LatencyTable("bench", "fake", 1, Metric.WALL, entries)


def by_macs(kernel: Kernel) -> float:
    return 1.0 + kernel_counts(kernel).macs


def upside_down(kernel: Kernel) -> float:
    """A device on which a call is the quicker the more it computes."""
    return 1e6 / (1.0 + kernel_counts(kernel).macs)


def ordered(graph: Graph, device: LatencyTable, word: str) -> tuple[Graph, Attempt]:
    merged, attempts = merge(graph, device)
    return merged, next(a for a in attempts if word in a.form)


@pytest.mark.parametrize("name", CASES)
def test_two_devices_take_two_orders(name: str) -> None:
    torch.manual_seed(2)
    module, inputs, word = CASES[name]
    module = module.double().eval()
    graph = compile_graph(module, *inputs)
    results = [ordered(graph, table(graph, cost), word) for cost in (by_macs, upside_down)]
    assert len({print_graph(g) for g, _ in results}) == 2
    assert all("latency table" in a.priced_by for _, a in results)
    assert all(
        a.residual is not None and a.residual < 1e-12 for _, a in results if a.outcome is Outcome.MERGED
    )
    with torch.no_grad():
        wanted = module(*inputs)
    for merged, _ in results:
        [got] = evaluate(merged, list(inputs))
        assert float((got - wanted).abs().max() / wanted.abs().max()) < 1e-9


@pytest.mark.parametrize("name", CASES)
def test_a_table_that_lacks_a_kernel_leaves_the_order_to_the_prior(name: str) -> None:
    module, inputs, word = CASES[name]
    graph = compile_graph(module.double().eval(), *inputs)
    _, attempt = ordered(graph, table(graph, upside_down, known=False), word)
    assert "prior" in attempt.priced_by
