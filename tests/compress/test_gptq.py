"""GPTQ is rounding to the nearest on white inputs, better on correlated ones, and on the target's grid."""

import pytest
import torch
from torch import nn

from compiler.compress.gptq import compensated, gptq
from compiler.compress.weight_grid import Grid
from compiler.errors import UsageError
from compiler.evaluate import evaluate
from tests.models.small import compile_graph

GRIDS = [Grid(8), Grid(4), Grid(4, group=8), Grid(3)]


def drawn(*sizes, seed=0):
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


def correlated(rows, width, seed=0):
    """Rows of a few common factors and a little of their own."""
    return drawn(rows, 4, seed=seed) @ drawn(4, width, seed=seed + 1) + 0.1 * drawn(
        rows, width, seed=seed + 2
    )


def error(x, weight, rounded):
    return float((x.double() @ (rounded - weight).double().T).square().mean())


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_on_white_inputs_it_rounds_to_the_nearest(grid):
    weight = drawn(6, 24, seed=3)
    q, _ = torch.linalg.qr(drawn(200, 24, seed=4).double())
    assert torch.equal(compensated(weight, torch.eye(24).double() * 3.0, grid), grid.nearest(weight))
    assert torch.equal(compensated(weight, q.T @ q, grid), grid.nearest(weight))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_on_correlated_inputs_it_is_strictly_better(grid):
    x, weight = correlated(400, 24), drawn(6, 24, seed=3)
    found = compensated(weight, x.T.double() @ x.double(), grid)
    assert error(x, weight, found) < 0.6 * error(x, weight, grid.nearest(weight))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_grid_finds_the_same_weights_again(grid):
    weight = drawn(40, 24, seed=3)
    weight[:, -1] = 1.02 * weight.abs().max()  # the largest is passed all errors
    weight[2] = 0
    x = drawn(400, 1) + 0.01 * drawn(400, 24, seed=1)
    found = compensated(weight, x.T.double() @ x.double(), grid)
    assert torch.allclose(grid.nearest(found), found, rtol=1e-6, atol=0)
    assert torch.equal(grid.codes(found, grid.scales(found)), grid.codes(found, grid.scales(weight)))


def test_a_later_layer_makes_good_what_an_earlier_one_lost():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.Flatten(),
        nn.Linear(72, 10),
    ).eval()
    x = correlated(64 * 36, 3).reshape(64, 6, 6, 3).permute(0, 3, 1, 2).contiguous()
    graph = compile_graph(net, x)
    names = {n.name for n in graph.ops()}
    done, nearest = gptq(graph, names, [(x,)], Grid(3)), rounded(graph, Grid(3))
    (wanted,), (found,), (other,) = (evaluate(g, (x,)) for g in (graph, done, nearest))
    assert (found - wanted).norm() < 0.85 * (other - wanted).norm()
    assert [n.name for n in done.nodes()] == [n.name for n in graph.nodes()]


def rounded(graph, grid):
    from compiler.compress.weights import renew
    from compiler.ir.edit import Editor

    editor = Editor(graph)
    for node in graph.ops():
        weight = graph.constant(node.operand("weight"))
        if weight is not None:
            renew(editor, node, {"weight": grid.nearest(weight.flatten(1)).reshape(weight.shape)})
    return editor.finish()


def test_unnamed_and_grouped_layers_are_left():
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)).eval()
    x = drawn(2, 4, 5, 5)
    graph = compile_graph(net, x)
    grouped, middle, _ = graph.ops()
    done = gptq(graph, {grouped.name, middle.name}, [(x,)], Grid(4))
    changed = [
        n.name
        for n in graph.ops()
        if done.constants[n.operand("weight").node] != graph.constants[n.operand("weight").node]
    ]
    assert changed == [middle.name]


def test_bad_arguments_are_named():
    graph = compile_graph(nn.Linear(6, 2).eval(), drawn(2, 6))
    names = {n.name for n in graph.ops()}
    with pytest.raises(UsageError, match="calibration sample"):
        gptq(graph, names, [], Grid())
    with pytest.raises(UsageError, match="groups of 4 inputs do not fill a row of 6"):
        gptq(graph, names, [(drawn(2, 6),)], Grid(4, group=4))
