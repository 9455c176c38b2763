"""Two passes for one: exact where the kernel is an outer product, at full rank, and least elsewhere."""

import pytest
import torch
from torch import nn

from compiler.compress import separable
from compiler.compress.convolution_fit import Convolution
from compiler.compress.decision import Setting
from compiler.compress.separable import split
from compiler.cost.counts import node_counts
from compiler.evaluate import evaluate
from compiler.ir.verify import verify
from tests.models.small import merged, randomize


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def _conv(depthwise, size=5, **options):
    weight = _random(8, 1, size, size) if depthwise else _random(8, 6, size, size)
    groups = 8 if depthwise else 1
    return Convolution(weight, _random(8, seed=1), groups=groups, **options)


GEOMETRIES = [
    {"padding": (2, 2)},
    {"padding": (1, 2), "stride": (2, 1)},
    {"padding": (0, 4), "dilation": (1, 2), "stride": (2, 3)},
]


@pytest.mark.parametrize("options", GEOMETRIES)
@pytest.mark.parametrize("depthwise", [True, False])
def test_full_rank_is_exact_in_every_geometry(depthwise, options):
    conv = _conv(depthwise, **options)
    x = _random(2, 8 if depthwise else 6, 17, 19, seed=2)
    first, second = split(conv, 5 if depthwise else 30)
    assert torch.allclose(second(first(x)), conv(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("depthwise", [True, False])
def test_an_outer_product_is_exact_at_rank_one(depthwise):
    conv = _conv(depthwise, padding=(2, 2))
    shape = conv.weight.shape
    outer = torch.einsum("oi,ch->oich", _random(shape[0], 1), _random(shape[1], 5, seed=4))
    weight = torch.einsum("oich,ow->oichw", outer, _random(shape[0], 5, seed=5))[:, 0]
    conv = Convolution(weight, conv.bias, padding=(2, 2), groups=conv.groups)
    x = _random(2, 8 if depthwise else 6, 9, 9, seed=2)
    first, second = split(conv, 1)
    assert len(first.weight) == (8 if depthwise else 1)
    assert torch.allclose(second(first(x)), conv(x), rtol=0, atol=1e-10)


def test_the_kernel_error_is_what_the_svd_drops():
    conv = _conv(True)
    first, second = split(conv, 2)
    rebuilt = torch.einsum("crh,crw->chw", first.weight.reshape(8, 2, 5), second.weight[:, :, 0])
    dropped = torch.linalg.svdvals(conv.weight[:, 0])[:, 2:].square().sum()
    assert float((rebuilt - conv.weight[:, 0]).square().sum()) == pytest.approx(float(dropped))


def _case(depthwise):
    torch.manual_seed(2)
    conv = nn.Conv2d(8, 8, 7, padding=3, groups=8) if depthwise else nn.Conv2d(8, 16, 5, padding=2)
    module = randomize(
        nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(), nn.Conv2d(conv.out_channels, 4, 1))
    )
    smooth = nn.AvgPool2d(3, 1, 1)
    samples = [[smooth(_random(2, 8, 14, 14, seed=s)) * 3 + 1] for s in range(8)]
    graph, _ = merged(module, samples[0][0])
    return graph, samples


@pytest.mark.parametrize("depthwise", [True, False])
def test_options_cost_less_and_more_rank_is_nearer(depthwise):
    graph, samples = _case(depthwise)
    setting = Setting(samples, step=4)
    (offer,) = separable.offers(graph, setting)
    macs = sum(node_counts(graph, n).macs for n in graph.ops())
    errors = []
    for option in offer.options:
        changed = separable.apply(graph, {offer.site: option}, setting)
        verify(changed)
        assert offer.nodes <= {n.name for n in changed.ops()}
        smaller = sum(node_counts(changed, n).macs for n in changed.ops())
        assert smaller < macs
        macs = smaller
        errors.append(
            sum(float((evaluate(changed, s)[0] - evaluate(graph, s)[0]).square().sum()) for s in samples)
        )
    assert errors == sorted(errors)


def test_the_fit_is_never_worse_than_the_svd_alone():
    graph, samples = _case(True)
    setting = Setting(samples)
    (offer,) = separable.offers(graph, setting)
    found = []
    for given in (setting, Setting()):
        changed = separable.apply(graph, {offer.site: offer.options[-1]}, given)
        found.append(
            sum(float((evaluate(changed, s)[0] - evaluate(graph, s)[0]).square().sum()) for s in samples)
        )
    assert found[0] < 0.9 * found[1]


def test_pointwise_and_grouped_layers_are_not_offered():
    module = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2, padding=1))
    graph, _ = merged(module, torch.randn(1, 8, 6, 6))
    assert separable.offers(graph, Setting(step=1)) == ()
