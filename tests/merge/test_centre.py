"""LayerNorm as RMSNorm where the writers of its stream can take off their mean, and where the price says so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compiler.cost.kernel import Kernel, kernel_counts
from compiler.cost.latency_table import Entry, LatencyTable
from compiler.evaluate import evaluate
from compiler.ir.graph import Graph
from compiler.merge import Attempt, Outcome, merge
from compiler.merge.open_choices import open_kernels
from compiler.records import Metric
from tests.models.small import compile_graph

pytestmark = pytest.mark.core

WIDTH = 12


class Block(nn.Module):
    """A pre-norm block with an attention of one head."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 20), nn.Linear(20, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norms[0](x)).chunk(3, -1)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


class Vision(nn.Module):
    """Patches, a class token, positions, blocks, a last norm; `leaves`: the stream is an output as well."""

    def __init__(self, leaves: bool = False, plain: bool = True) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.token, self.position = (
            nn.Parameter(torch.randn(1, 1, WIDTH)),
            nn.Parameter(torch.randn(1, 7, WIDTH)),
        )
        self.blocks = nn.Sequential(Block(), Block())
        self.norm, self.head = nn.LayerNorm(WIDTH, elementwise_affine=not plain), nn.Linear(WIDTH, 5)
        self.leaves = leaves

    def forward(self, x: torch.Tensor) -> object:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        x = self.blocks(x)
        y = self.head(torch.tanh(self.norm(x)))
        return (y, x) if self.leaves else y


class Text(nn.Module):
    """Token and position tables; `tied`: the head reads the token table too."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(9, WIDTH), nn.Embedding(6, WIDTH)
        self.block, self.norm = Block(), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 9, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        return self.head(torch.tanh(self.norm(self.block(x))))


IMAGE, IDS = torch.randn(2, 3, 8, 12), torch.tensor([[1, 4, 8, 0, 2, 2]])


def seeded(module: nn.Module) -> nn.Module:
    """Return a module in float64 with no parameter at a value that hides a fault."""
    torch.manual_seed(3)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module.double().eval()


def priced(norm: float, rms: float) -> Callable[[Kernel], float]:
    """Return a runtime on which the two normalisations cost what is given, and the rest what it counts."""

    def cost(kernel: Kernel) -> float:
        own = {"aten.layer_norm.default": norm, "aten.rms_norm.default": rms}
        return own.get(kernel.op, 1.0 + kernel_counts(kernel).macs * 1e-3)

    return cost


def through(
    module: nn.Module, x: torch.Tensor, cost: Callable[[Kernel], float] | None
) -> tuple[Graph, list[Attempt]]:
    """Return the merged graph, the table holding the kernels of its open choices, and the centrings."""
    graph = compile_graph(module, x)
    table = None
    if cost is not None:
        entries = {k.text: Entry(cost(k), cost(k), cost(k)) for k in open_kernels(graph)}
        table = LatencyTable("bench", "fake", 1, Metric.WALL, entries)
    merged, attempts = merge(graph, table)
    return merged, [a for a in attempts if "LayerNorm" in a.form or "LayerNorm" in a.reason]


def error(graph: Graph, module: nn.Module, x: torch.Tensor) -> float:
    """Return the largest difference over the largest value of the first result."""
    with torch.no_grad():
        wanted = module(x)
    wanted = wanted[0] if isinstance(wanted, tuple) else wanted
    return float((evaluate(graph, [x])[0] - wanted).abs().max() / wanted.abs().max())


def norms(graph: Graph) -> tuple[int, int]:
    """Return how many layer norms and RMSNorms a graph has."""
    counts = graph.histogram()
    return counts.get("aten.layer_norm.default", 0), counts.get("aten.rms_norm.default", 0)


@pytest.mark.parametrize(
    ("module", "x", "count"), [(Vision(), IMAGE, 5), (Vision(plain=False), IMAGE, 5), (Text(), IDS, 3)]
)
def test_the_table_decides_between_the_two_normalisations(
    module: nn.Module, x: torch.Tensor, count: int
) -> None:
    module = seeded(module)
    x = x.double() if x.is_floating_point() else x
    centred, [done] = through(module, x, priced(norm=9.0, rms=5.0))
    assert (done.outcome, norms(centred)) == (Outcome.MERGED, (0, count))
    assert "latency table" in done.priced_by
    assert done.residual is not None and done.residual < 1e-12
    assert error(centred, module, x) < 1e-9
    whole, [kept] = through(module, x, priced(norm=5.0, rms=9.0))
    assert (kept.outcome, norms(whole)) == (Outcome.KEPT, (count, 0))
    assert error(whole, module, x) < 1e-9


def test_the_prior_keeps_layer_norm() -> None:
    graph, [kept] = through(seeded(Vision()), IMAGE.double(), None)
    assert (kept.outcome, norms(graph)) == (Outcome.KEPT, (5, 0))
    assert "prior" in kept.priced_by


def test_a_shift_that_nothing_absorbed_is_part_of_the_price() -> None:
    module, x = seeded(Vision(plain=False)), IMAGE.double()
    graph, [kept] = through(module, x, priced(norm=9.0, rms=8.9))  # the add behind the last norm costs 1
    assert (kept.outcome, norms(graph)) == (Outcome.KEPT, (5, 0))


@pytest.mark.parametrize(
    ("module", "x", "reason"),
    [
        (Vision(leaves=True), IMAGE, "read by an operation that is not linear"),
        (Text(tied=True), IDS, "shared"),
        (nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.LayerNorm(12)), torch.randn(2, 12), ""),
    ],
)
def test_a_stream_that_something_else_touches_keeps_its_mean(
    module: nn.Module, x: torch.Tensor, reason: str
) -> None:
    module = seeded(module)
    x = x.double() if x.is_floating_point() else x
    graph, attempts = through(module, x, priced(norm=9.0, rms=5.0))
    assert norms(graph)[1] == 0
    assert [a.outcome for a in attempts] == [Outcome.REFUSED] * bool(reason)
    assert all(reason in a.reason and a.node for a in attempts)
    assert error(graph, module, x) < 1e-9
