"""int4 weights: codes on the grid of groups, rows of activations rounded where kernels do, and no others."""

import pytest
import torch
from torch import nn

from compiler.compress.apply import calibrate, choose
from compiler.compress.quantize import quantized_nodes
from compiler.compress.quantize_int4 import GRID, GROUP, int4_able, int4_nodes, quantize_int4
from compiler.errors import UnsupportedModelError
from compiler.evaluate import evaluate
from compiler.ir.text import print_graph
from targets import get_target
from tests.models.small import compile_graph


class Net(nn.Module):
    """Two layers that read one value, one whose rows hold no whole groups, and a shared weight."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.gate = nn.Linear(64, 72), nn.Linear(64, 72, bias=False)
        self.down, self.twice = nn.Linear(72, 64), nn.Linear(64, 64)
        with torch.no_grad():
            self.up.weight.mul_(torch.logspace(-2, 1, 64))
            self.twice.weight[:, 32:] = 0  # a group of zeros

    def forward(self, x):
        x = self.down(torch.relu(self.up(x)) * self.gate(x))
        return self.twice(torch.tanh(self.twice(x)))


@pytest.fixture(scope="module")
def graph():
    return compile_graph(Net().eval(), torch.randn(2, 5, 64))


def layers(graph, *paths):
    return {n.name for n in graph.ops() if n.op == "aten.linear.default" and n.origin in paths}


def test_layers_with_whole_groups_can_be(graph):
    assert int4_able(graph) == layers(graph, "up", "gate", "twice")
    assert len(int4_able(graph)) == 4


def test_each_group_has_its_scale_and_its_largest_weight_the_last_code(graph):
    made = quantize_int4(graph, int4_able(graph), rows=False)
    for name in ("up_weight", "gate_weight", "twice_weight"):
        weight = graph.constants[name].tensor
        codes, scale = (made.constants[f"{name}_{part}"].tensor for part in ("int4", "scale"))
        assert codes.dtype is torch.int8 and scale.shape == (len(weight), weight.shape[1] // GROUP)
        assert torch.equal(scale, scale.bfloat16().float())
        live = weight.reshape(*scale.shape, GROUP).abs().amax(2) > 0
        ends = codes.reshape(*scale.shape, GROUP).abs().amax(2)
        assert bool((ends[live] == 7).all()) and not ends[~live].any()
        real = codes * scale.repeat_interleave(GROUP, 1)
        assert bool(((real - weight).abs() <= 0.51 * scale.repeat_interleave(GROUP, 1)).all())
        assert torch.equal(real, GRID.nearest(weight))


def test_weights_on_the_grid_stay_where_they_are(graph):
    once = GRID.nearest(graph.constants["up_weight"].tensor)
    assert torch.equal(GRID.nearest(once), once)


def test_the_graph_computes_with_the_rounded_weights_and_no_others(graph):
    made, x = quantize_int4(graph, layers(graph, "up"), rows=False), torch.randn(2, 5, 64)
    net = Net().eval()
    net.up.weight.data = GRID.nearest(net.up.weight.data)
    with torch.no_grad():
        assert torch.allclose(evaluate(made, (x,))[0], net(x), atol=1e-5)
    assert int4_nodes(made) == layers(graph, "up")
    assert "per_token" not in print_graph(made)


def test_a_row_is_rounded_once_for_all_its_readers_by_its_own_range(graph):
    made = quantize_int4(graph, layers(graph, "up", "gate"), rows=True)
    text = print_graph(made)
    assert text.count("quantized_decomposed.quantize_per_token.default") == 1
    up, gate = (made.node(n) for n in sorted(int4_nodes(made)))
    assert up.operand("input") == gate.operand("input") != made.inputs()[0].value
    x = torch.randn(2, 5, 64)
    x[0, 0] *= 1000  # which must not spoil the other rows
    (whole,), (alone,) = (evaluate(made, (t,)) for t in (x, torch.cat([x[:, 1:], x[:, 1:2]], 1)))
    assert torch.allclose(whole[:, 1:], alone[:, :4], atol=1e-5)
    (plain,) = evaluate(quantize_int4(graph, layers(graph, "up", "gate"), rows=False), (x,))
    assert 0 < float((whole - plain).abs().max() / plain.abs().max()) < 0.05


@pytest.mark.target
def test_it_is_no_static_int8_between_quantized_values():
    net = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)).eval()
    x = torch.randn(4, 32)
    graph = compile_graph(net, x)
    first, middle, last = (n.name for n in graph.ops())
    target = get_target("onnxruntime")
    outer = choose(calibrate(graph, target.quantizer, [(x,)]), {first, last})
    made = quantize_int4(outer, {middle}, rows=False)
    assert quantized_nodes(made) == {first, last} and int4_nodes(made) == {middle}


def test_what_cannot_be_int4_is_refused_with_what_can(graph):
    with pytest.raises(UnsupportedModelError, match=r"none of the 1 .* multiple of 32"):
        quantize_int4(graph, layers(graph, "down"), rows=False)
