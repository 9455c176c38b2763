"""SmoothQuant: float outputs stay, the int8 error of outlier channels falls, what cannot move stays."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compiler.compress.smooth_quant import joints, smooth
from compiler.errors import UsageError
from compiler.evaluate import evaluate
from tests.models.small import compile_graph


def drawn(*sizes, seed=0):
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


class Block(nn.Module):
    """A norm read by two layers, a gated product, and a relu chain."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm
        self.gate, self.up, self.down = nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(24, 16)
        self.inner = nn.Sequential(nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 16, bias=False))

    def forward(self, x):
        h = self.norm(x)
        y = self.down(F.silu(self.gate(h)) * self.up(h))
        return x + self.inner(y)


def loud(norm, bias=True):
    """A norm three channels of which are a hundred times as large as the rest."""
    norm.weight.data[:3] *= 100
    if bias:
        norm.bias.data.normal_()
    return norm


NORMS = {
    "layer_norm": lambda: loud(nn.LayerNorm(16)),
    "rms_norm": lambda: loud(nn.RMSNorm(16, eps=1e-6), bias=False),
    "plain": lambda: nn.LayerNorm(16, elementwise_affine=False),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8])
def test_float_outputs_stay_to_rounding(name, alpha):
    torch.manual_seed(0)
    samples = [(drawn(4, 7, 16, seed=i).double(),) for i in range(3)]
    graph = compile_graph(Block(NORMS[name]()).double().eval(), *samples[0])
    done = smooth(graph, samples, alpha)
    assert done != graph
    for sample in samples:
        (before,), (after,) = evaluate(graph, sample), evaluate(done, sample)
        assert float((after - before).abs().max()) < 1e-13 * float(before.abs().max())


def test_norm_readers_products_and_relu_chains_are_found():
    graph = compile_graph(Block(nn.LayerNorm(16)).eval(), drawn(2, 16))
    origins = [(graph.node(j.source).origin, len(j.readers)) for j in joints(graph)]
    assert origins == [("norm", 2), ("up", 1), ("down", 1), ("inner.0", 1)]


def test_a_scale_weighs_the_largest_activation_against_the_largest_weight():
    torch.manual_seed(0)
    x = drawn(50, 16)
    net = nn.Sequential(loud(nn.LayerNorm(16)), nn.Linear(16, 8)).double().eval()
    graph = compile_graph(net, x.double())
    done = smooth(graph, [(x.double(),)], 0.3)
    norm, linear = (
        next(n for n in done.ops() if n.op.startswith(f"aten.{k}")) for k in ("layer_norm", "linear")
    )
    largest = net[0](x.double()).abs().amax(0)
    wanted = (largest**0.3 / net[1].weight.abs().amax(0) ** 0.7).detach()
    assert torch.allclose(net[0].weight / done.constant(norm.operand("weight")), wanted)
    assert torch.allclose(done.constant(linear.operand("weight")) / net[1].weight, wanted.expand(8, -1))


def rounded(tensor, dim=None):
    """A tensor through symmetric int8, one scale for all or for each row."""
    scale = (tensor.abs().amax() if dim is None else tensor.abs().amax(dim, keepdim=True)) / 127
    return (tensor / scale).round() * scale


def test_the_int8_error_of_a_layer_behind_outliers_falls():
    torch.manual_seed(0)
    x = drawn(200, 16)
    graph = compile_graph(nn.Sequential(loud(nn.LayerNorm(16)), nn.Linear(16, 8)).eval(), x)
    errors = [int8_error(g, x) for g in (graph, smooth(graph, [(x,)]))]
    assert errors[1] < 0.5 * errors[0]


def int8_error(graph, x):
    norm, linear = graph.ops()[-2:]
    h = F.layer_norm(x, (16,), *(graph.constant(norm.operand(k)) for k in ("weight", "bias")))
    weight = graph.constant(linear.operand("weight"))
    wanted = h @ weight.T
    return float((rounded(h) @ rounded(weight).T - wanted).norm() / wanted.norm())


def test_a_norm_read_by_more_than_linear_layers_keeps_its_scale():
    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.layer = nn.LayerNorm(6), nn.Linear(6, 6)

        def forward(self, x):
            h = self.norm(x)
            return h + self.layer(h)

    graph = compile_graph(Read().eval(), drawn(2, 6))
    assert joints(graph) == ()
    assert smooth(graph, [(drawn(2, 6),)]) == graph


def test_bad_arguments_are_named():
    graph = compile_graph(nn.Linear(3, 2).eval(), drawn(2, 3))
    with pytest.raises(UsageError, match="calibration sample"):
        smooth(graph, [])
    with pytest.raises(UsageError, match=r"\[0, 1\]; got 1.5"):
        smooth(graph, [(drawn(2, 3),)], alpha=1.5)
