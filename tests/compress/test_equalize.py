"""Equalised pairs have equal ranges, and the float graph computes what it did."""

import pytest
import torch
from torch import nn

from compiler.compress.equalize import equalize, pairs
from compiler.evaluate import evaluate
from tests.models.small import Function, compile_graph, randomize


def drawn(*sizes, seed=0):
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


def uneven(module, seed=0):
    """Spread the channels of every layer over three decades."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            spread = 10 ** (3 * torch.rand(len(part.weight), generator=generator) - 1.5)
            part.weight.data *= spread.reshape(-1, *(1,) * (part.weight.dim() - 1))
    return randomize(module.double())


CHAIN = lambda: nn.Sequential(  # noqa: E731
    nn.Conv2d(3, 8, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(8, 8, 3, padding=1, groups=8),
    nn.LeakyReLU(0.1),
    nn.AvgPool2d(2),
    nn.Conv2d(8, 12, 1, groups=2),
    nn.Conv2d(12, 4, 3, bias=False),
)
TOKENS = lambda: nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 5, bias=False), nn.Linear(5, 3))  # noqa: E731


@pytest.mark.parametrize(("build", "shape", "count"), [(CHAIN, (2, 3, 9, 9), 3), (TOKENS, (2, 4, 6), 2)])
def test_the_float_graph_stays_and_each_pair_has_equal_ranges(build, shape, count):
    torch.manual_seed(0)
    x = drawn(*shape).double()
    graph = compile_graph(uneven(build()), x)
    done = equalize(graph)
    (before,), (after,) = evaluate(graph, [x]), evaluate(done, [x])
    assert float((after - before).abs().max()) < 1e-12 * float(before.abs().max())
    assert [n.name for n in done.nodes()] == [n.name for n in graph.nodes()]
    found = pairs(graph)
    assert len(found) == count
    for pair in found:
        assert ratio(graph, pair) > 5 and ratio(done, pair) < 1.02


def ratio(graph, pair):
    """How far the ranges of the two layers of a pair are apart, at the worst channel."""
    first, second = graph.node(pair.first), graph.node(pair.second)
    own = graph.constant(first.operand("weight")).flatten(1).abs().amax(1)
    weight, groups = graph.constant(second.operand("weight")), second.operand("groups", 1)
    parts = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
    other = parts.abs().amax((1, 3)).flatten()
    return float(torch.maximum(own / other, other / own).max())


def test_a_dead_channel_is_left_and_stays_finite():
    net = uneven(TOKENS())
    net[0].weight.data[2] = 0
    net[2].weight.data[:, 5] = 0
    x = drawn(3, 6).double()
    graph = compile_graph(net, x)
    (before,), (after,) = evaluate(graph, [x]), evaluate(equalize(graph), [x])
    assert torch.allclose(before, after, rtol=1e-12)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, a, b: b(torch.nn.functional.gelu(a(x))),
        lambda x, a, b: b(torch.relu(a(x))) + torch.relu(a(x)).sum(),
        lambda x, a, b: b(torch.nn.functional.relu6(a(x))),
    ],
    ids=["gelu", "read twice", "relu6"],
)
def test_what_is_not_homogeneous_or_read_elsewhere_is_no_pair(function):
    graph = compile_graph(Function(function, nn.Linear(6, 8), nn.Linear(8, 4)).eval(), drawn(2, 6))
    assert pairs(graph) == ()
    assert equalize(graph) == graph
