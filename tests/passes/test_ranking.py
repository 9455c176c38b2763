"""What an arg-max cannot see: dropped where it is provable, refused with the node to blame where not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compiler.evaluate import evaluate
from compiler.ir.graph import Graph
from compiler.ir.verify import verify
from compiler.passes.ranking import Ranking, keep_rankings
from tests.models.graphs import ops, through_passes

Forward = Callable[["Head", torch.Tensor], torch.Tensor]


class Head(nn.Module):
    """An image projection and a constant classifier, put together by `forward`."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.projection = nn.Linear(6, 8, bias=False)
        self.biased = nn.Linear(6, 8)
        self.classes = nn.Parameter(torch.randn(5, 8))
        self.log_scale = nn.Parameter(torch.tensor(1.3))
        self.shift = nn.Parameter(torch.tensor(-0.7))
        self.slope = nn.Parameter(torch.randn(5))
        self.run = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(self, x)


def kept(forward: Forward, *shape: int) -> tuple[Graph, tuple[Ranking, ...], Head, torch.Tensor]:
    torch.manual_seed(0)
    module, x = Head(forward).eval(), torch.randn(*(shape or (7, 6)))
    graph, rankings = keep_rankings(through_passes(module, x))
    verify(graph)
    return graph, rankings, module, x


def products(graph: Graph) -> list[str]:
    """Return the operations, a product with a constant matrix by one name however it is spelled."""
    return ["linear" if op == "matmul" else op for op in ops(graph)]


def same_order(graph: Graph, module: nn.Module, x: torch.Tensor) -> bool:
    for seed in range(4):
        x = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).double()
        with torch.no_grad():
            wanted = module.double()(x)
        got = evaluate(graph, [x], torch.float64)[0]
        if not torch.equal(got.argsort(dim=-1), wanted.argsort(dim=-1)):
            return False
    return True


def cosine(m: Head, x: torch.Tensor) -> torch.Tensor:
    return m.log_scale.exp() * F.normalize(m.projection(x), dim=-1) @ m.classes.t()


def unclamped(m: Head, x: torch.Tensor) -> torch.Tensor:
    """Transposed logits of a divisor without a floor, as one published implementation writes them."""
    embedding = m.projection(x)
    embedding = embedding / embedding.norm(dim=-1, keepdim=True)
    return (m.classes @ embedding.t() * m.log_scale.exp()).t()


def root_mean_square(m: Head, x: torch.Tensor) -> torch.Tensor:
    y = m.projection(x)
    return torch.relu(y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)) @ m.classes.t()


DROPPED: dict[str, tuple[Forward, list[str], list[str]]] = {
    "cosine": (cosine, ["mul", "div"], ["linear", "linear"]),
    "unclamped": (unclamped, ["mul", "div"], ["linear", "permute", "linear", "permute"]),
    "root_mean_square": (root_mean_square, ["mul"], ["linear", "relu", "linear"]),
    "softmax": (lambda m, x: m.biased(x).softmax(-1), ["softmax"], ["linear"]),
    "log_softmax": (lambda m, x: F.log_softmax(m.biased(x), 1), ["log_softmax"], ["linear"]),
    "sigmoid": (lambda m, x: torch.sigmoid(m.biased(x) * 2.5 + 1), ["sigmoid", "add", "mul"], ["linear"]),
    "shift": (lambda m, x: 3 + (m.biased(x) - x.sum(1, keepdim=True)), ["add", "sub"], ["linear"]),
    "row scale": (lambda m, x: m.biased(x) / (x.abs().amax(1, True) + 1), ["div"], ["linear"]),
    "layer norm": (lambda m, x: F.layer_norm(m.biased(x), (8,)), ["layer_norm"], ["linear"]),
    "argmax": (lambda m, x: m.biased(x).softmax(-1).argmax(-1), ["softmax"], ["linear", "argmax"]),
}


@pytest.mark.parametrize("name", DROPPED)
def test_what_a_ranking_does_not_need_is_dropped(name: str) -> None:
    forward, dropped, left = DROPPED[name]
    graph, rankings, module, x = kept(forward)
    assert [r.op.split(".")[1] for r in rankings if r.dropped] == dropped
    assert products(graph) == left
    assert same_order(graph, module, x)


def test_rows_of_tokens_rank_each_for_itself() -> None:
    def tokens(m: Head, x: torch.Tensor) -> torch.Tensor:
        return (F.normalize(m.projection(x), dim=-1).reshape(10, 8) @ m.classes.t()).softmax(-1)

    graph, rankings, module, x = kept(tokens, 2, 5, 6)
    assert [r.dropped for r in rankings] == [True, True]
    assert products(graph) == ["linear", "reshape", "linear"]
    assert same_order(graph, module, x)


def gated(m: Head, x: torch.Tensor) -> torch.Tensor:
    return m.projection(x) * x.sum(1, keepdim=True)


def two_readers(m: Head, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    embedding = F.normalize(m.projection(x), dim=-1)
    return embedding @ m.classes.t(), embedding.sum(-1)


REFUSED: dict[str, tuple[Forward, str, str]] = {
    "a factor of unknown sign": (gated, "cannot be shown to be positive", "mul"),
    "a negative factor": (lambda m, x: m.projection(x) * -2.0, "-2.0 cannot be shown to be positive", "mul"),
    "a floor below zero": (
        lambda m, x: m.projection(x) / x.sum(1, keepdim=True).clamp_min(-1.0),
        "clamp_min cannot be shown to be not negative",
        "div",
    ),
    "another axis": (lambda m, x: m.projection(x).softmax(0), "softmax is along another axis", "softmax"),
    "one vector": (lambda m, x: m.projection(x)[0].softmax(-1), "has rank 1", "softmax"),
    "one score": (lambda m, x: m.projection(x)[:, :1].sigmoid(), "a single score a row", "sigmoid"),
    "two readers": (two_readers, "is read by", "div"),
    "a bias behind the norm": (
        lambda m, x: F.linear(F.normalize(m.projection(x), dim=-1), m.classes, m.slope),
        "its bias would have to be scaled",
        "linear_1",
    ),
    "an output returned twice": (
        lambda m, x: (lambda y: (y, y))(m.projection(x).softmax(-1)),
        "is read by something else as well",
        "softmax",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_provable_is_refused(name: str) -> None:
    forward, reason, blame = REFUSED[name]
    graph, rankings, module, x = kept(forward)
    refusals = [r for r in rankings if not r.dropped]
    assert refusals
    assert reason in refusals[0].reason
    assert refusals[0].blame == blame
    wanted = module.double()(x.double())
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    for got, exact in zip(evaluate(graph, [x], torch.float64), wanted, strict=True):
        torch.testing.assert_close(got, exact.detach(), rtol=1e-5, atol=1e-7)


SILENT: dict[str, Forward] = {
    "a bias of the row": lambda m, x: m.projection(x) @ m.classes.t() + m.slope,
    "a shift behind a product": lambda m, x: (m.projection(x) + x.sum(1, keepdim=True)) @ m.classes.t(),
    "softmax behind a product": lambda m, x: m.projection(x).softmax(-1) @ m.classes.t(),
    "a minuend": lambda m, x: x.sum(1, keepdim=True) - m.projection(x),
    "a negated summand": lambda m, x: torch.add(x.sum(1, keepdim=True), m.projection(x), alpha=-1),
}


@pytest.mark.parametrize("name", SILENT)
def test_nothing_else_is_touched(name: str) -> None:
    graph, rankings, module, x = kept(SILENT[name])
    assert not [r for r in rankings if r.dropped]
    wanted = module.double()(x.double()).detach()
    torch.testing.assert_close(evaluate(graph, [x], torch.float64)[0], wanted, rtol=1e-5, atol=1e-6)
