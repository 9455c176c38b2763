"""AWQ with exponent 0 rounds to the nearest; the chosen exponent is never worse on the search set."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compiler.compress.awq import EXPONENTS, awq, scales, search
from compiler.compress.weight_grid import Grid
from compiler.compress.weights import renew
from compiler.errors import UsageError
from compiler.evaluate import evaluate
from compiler.ir.edit import Editor
from tests.models.small import compile_graph


def drawn(*sizes, seed=0):
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


def uneven(rows, width, seed=0):
    """Inputs a few of which are thirty times as large as the rest."""
    x = drawn(rows, width, seed=seed)
    x[:, ::7] *= 30
    return x.double()


def error(x, weight, rounded):
    return float((x @ (rounded - weight).T).square().sum())


@pytest.mark.parametrize("grid", [Grid(4, group=8), Grid(4), Grid(3)], ids=str)
def test_the_chosen_exponent_is_the_best_of_twenty_and_never_worse_than_the_nearest(grid):
    assert len(EXPONENTS) == 20 and EXPONENTS[0] == 0
    weight, x = drawn(12, 32, seed=2).double(), uneven(300, 32)
    choice = search([weight], x, grid)
    errors = [error(x, weight, grid.nearest(weight * s) / s) for s in (scales(x, a) for a in EXPONENTS)]
    assert (
        choice.error == pytest.approx(min(errors)) and choice.exponent == EXPONENTS[errors.index(min(errors))]
    )
    assert choice.error < 0.8 * choice.nearest
    assert choice.nearest == pytest.approx(error(x, weight, grid.nearest(weight)))


def test_exponent_zero_is_rounding_to_the_nearest():
    assert torch.equal(scales(uneven(50, 8), 0.0), torch.ones(8).double())


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(16), nn.Linear(16, 12), nn.Linear(16, 12)

    def forward(self, x):
        h = self.norm(x)
        return F.silu(self.a(h)) * self.b(h)


def test_the_function_stays_and_rounding_then_loses_what_was_chosen():
    torch.manual_seed(0)
    net = Block()
    net.norm.weight.data[::5] *= 20
    x = drawn(100, 16)
    graph = compile_graph(net.eval(), x)
    readers = {n.name for n in graph.ops() if n.op == "aten.linear.default"}
    done, choices = awq(graph, readers, [(x,)], Grid(4))
    assert list(choices) == [n.name for n in graph.ops()][:1]
    (choice,) = choices.values()
    assert choice.exponent > 0 and choice.error < choice.nearest
    first, level = (linear_outputs(g, x) for g in (graph, done))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(first, level, strict=True))
    editor = Editor(done)
    for name in readers:
        weight = done.constant(done.node(name).operand("weight"))
        renew(editor, done.node(name), {"weight": Grid(4).nearest(weight)})
    second = linear_outputs(editor.finish(), x)
    found = sum(float((a - b).double().square().sum()) for a, b in zip(first, second, strict=True))
    assert found == pytest.approx(choice.error, rel=1e-3)


def linear_outputs(graph, x):
    from compiler.compress.track import Track

    names = [n.name for n in graph.ops() if n.op == "aten.linear.default"]
    track = Track(graph, [(x,)], names)
    for name in names:
        track.reach(name)
    return [track.take(graph.node(name).value)[0] for name in names]


def test_a_joint_with_an_unnamed_reader_is_left():
    graph = compile_graph(Block().eval(), drawn(3, 16))
    one = next(n.name for n in graph.ops() if n.op == "aten.linear.default")
    done, choices = awq(graph, {one}, [(drawn(3, 16),)], Grid(4))
    assert choices == {} and done == graph
    (before,), (after,) = (evaluate(g, (drawn(3, 16),)) for g in (graph, done))
    assert torch.equal(before, after)


def test_samples_are_needed():
    graph = compile_graph(Block().eval(), drawn(3, 16))
    with pytest.raises(UsageError, match="calibration sample"):
        awq(graph, set(), [], Grid(4))
