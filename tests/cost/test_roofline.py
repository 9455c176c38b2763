"""The prior: the slower of arithmetic and traffic, a start each, and what a runtime has no code for."""

import pytest
import torch
from torch import nn

from compiler.cost.counts import Counts, counts, node_counts
from compiler.cost.roofline import Roofline
from compiler.evaluate import evaluate
from compiler.frontends.torch_export import import_model
from compiler.merge import merge

XNNPACK = Roofline(depthwise_taps=25)


class Depthwise(nn.Module):
    def __init__(self, kernel):
        super().__init__()
        self.conv = nn.Conv2d(16, 16, kernel, padding=kernel // 2, groups=16)

    def forward(self, x):
        return self.conv(x).relu()


def graph_of(kernel):
    return import_model(Depthwise(kernel).eval(), (torch.randn(1, 16, 24, 24),))


@pytest.mark.parametrize(
    ("data", "weight", "taps"),
    [
        ((1, 16, 8, 8), (16, 1, 7, 7), 49),
        ((1, 16, 8), (16, 1, 7), 7),
        ((1, 16, 8, 8), (16, 8, 7, 7), 0),  # grouped, not depthwise
        ((1, 1, 8, 8), (1, 1, 7, 7), 0),  # one channel is a dense convolution
        ((1, 8, 8, 8), (16, 1, 7, 7), 0),  # a multiplier of two
    ],
)
def test_the_taps_of_a_depthwise_kernel_are_counted(data, weight, taps):
    assert counts("aten.conv2d.default", [data, weight], [(1, weight[0], *data[2:])], 4).taps == taps


def test_a_kernel_without_code_costs_a_tile_of_columns():
    prior = Roofline(macs_per_byte=0.0, launch_macs=0.0, depthwise_taps=25, tile_columns=8)
    assert prior.cost(Counts(100.0, 1.0, taps=25)) == 100.0
    assert prior.cost(Counts(100.0, 1.0, taps=49)) == 800.0
    assert Roofline(macs_per_byte=0.0, launch_macs=0.0).cost(Counts(100.0, 1.0, taps=49)) == 100.0


@pytest.mark.parametrize(
    ("kernel", "prior", "convolutions"), [(7, XNNPACK, 4), (5, XNNPACK, 1), (7, Roofline(), 1)]
)
def test_the_prior_of_a_runtime_splits_what_it_has_no_code_for(kernel, prior, convolutions):
    graph, x = graph_of(kernel), torch.randn(1, 16, 24, 24)
    made = merge(graph, prior=prior)[0]
    found = [n for n in made.ops() if n.op == "aten.conv2d.default"]
    assert len(found) == convolutions
    assert prior.depthwise_taps is None or all(node_counts(made, n).taps <= 25 for n in found)
    wanted = evaluate(graph, [x], torch.float64)[0]
    assert float((evaluate(made, [x], torch.float64)[0] - wanted).abs().max()) < 1e-6
