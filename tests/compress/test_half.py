"""float16: chosen operations in half, one cast a value, all else as it was."""

import pytest
import torch
from torch import nn

from compiler.compress.half import CAST, half_able, half_nodes, to_half
from compiler.errors import UnsupportedModelError
from compiler.evaluate import evaluate
from tests.models.small import compile_graph


class Net(nn.Module):
    """A stem that two branches read, a concatenation, a pool that takes no half, and a shared head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.left, self.right = (
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(8, 8, 1),
            nn.Conv2d(8, 4, 3, padding=1),
        )
        self.head = nn.Linear(12, 12)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.cat([self.left(x), self.right(x)], 1).amax((2, 3))
        return self.head(torch.tanh(self.head(x)))


@pytest.fixture(scope="module")
def graph():
    return compile_graph(Net().eval(), torch.randn(1, 3, 10, 10))


def names(graph, *origins):
    return [n.name for n in graph.ops() if n.origin in origins]


def far(graph, other, x):
    (a,), (b,) = evaluate(graph, (x,)), evaluate(other, (x,))
    return float((a - b).abs().max() / a.abs().max())


def test_all_that_can_be_is_in_half_and_near(graph):
    made, x = to_half(graph, [n.name for n in graph.ops()]), torch.randn(1, 3, 10, 10)
    assert half_nodes(made) == half_able(graph) == frozenset(names(graph, "stem", "left", "right", "head"))
    assert made.inputs() == graph.inputs() and evaluate(made, (x,))[0].dtype is torch.float32
    assert 1e-6 < far(graph, made, x) < 5e-3
    # in front of the stem, on both sides of the maximum, and behind the head
    assert sum(n.op == CAST for n in made.ops()) == 4
    stored = [n for n, c in made.constants.items() if c.tensor.dtype is torch.float16]
    assert len(stored) == len(made.constants) == len(graph.constants)  # the head's, which two read, once


def test_what_is_not_chosen_stays_in_float(graph):
    made, x = to_half(graph, names(graph, "left")), torch.randn(1, 3, 10, 10)
    assert half_nodes(made) == frozenset(names(graph, "left"))
    for node in graph.ops():
        if node.origin in ("stem", "right", "head") and node.op != "aten.cat.default":
            assert made.node(node.name) == node
    assert far(graph, made, x) < 5e-3
    assert sum(n.op == CAST for n in made.ops()) == 2


def test_it_is_what_torch_makes_in_half(graph):
    made, x = to_half(graph, names(graph, "left")), torch.randn(1, 3, 10, 10)
    net = Net().eval()
    inside = torch.relu(net.stem(x))
    left = net.left.half()(inside.half()).float()
    wanted = torch.cat([left, net.right(inside)], 1).amax((2, 3))
    wanted = net.head(torch.tanh(net.head(wanted)))
    assert torch.allclose(evaluate(made, (x,))[0], wanted, atol=1e-6)


def test_a_weight_beyond_the_range_of_half_stays(graph):
    net = Net().eval()
    with torch.no_grad():
        net.right.weight[0, 0, 0, 0] = 1e5
    large = compile_graph(net, torch.randn(1, 3, 10, 10))
    assert half_able(large) == frozenset(names(large, "stem", "left", "head"))
    with pytest.raises(UnsupportedModelError, match=r"none of the 1 selected .* below 65504"):
        to_half(large, names(large, "right"))
