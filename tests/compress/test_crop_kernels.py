"""Cropping: outputs stay in place, an empty ring costs nothing, the fit helps."""

import pytest
import torch
from torch import nn

from compiler.compress import crop_kernels
from compiler.compress.convolution_fit import Convolution, fitted
from compiler.compress.crop_kernels import cropped
from compiler.compress.decision import Setting
from compiler.evaluate import evaluate
from compiler.ir.verify import verify
from tests.models.small import merged, randomize


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def _ringless(size, keep, *shape):
    weight = _random(*shape, size, size)
    ring = (size - keep) // 2
    hole = torch.zeros(size, size).double()
    hole[ring : size - ring, ring : size - ring] = 1
    return weight * hole


@pytest.mark.parametrize(
    "options",
    [
        {"padding": (2, 3)},
        {"padding": (4, 5), "dilation": (2, 2), "stride": (2, 1)},
        {"padding": (2, 2), "groups": 4},
    ],
)
def test_an_empty_ring_costs_nothing(options):
    groups = options.get("groups", 1)
    conv = Convolution(_ringless(5, 3, 8, 4 // groups), _random(8), **options)
    x = _random(2, 4, 15, 16, seed=1)
    assert torch.allclose(cropped(conv, 3)(x), conv(x), rtol=0, atol=1e-12)


def _case(dtype_seed=3, **options):
    torch.manual_seed(dtype_seed)
    module = randomize(
        nn.Sequential(
            nn.Conv2d(6, 6, 5, padding=2, groups=6, **options),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 4, 1),
        )
    )
    smooth = nn.AvgPool2d(3, 1, 1)
    samples = [[smooth(_random(2, 6, 16, 16, seed=s)) * 3 + 1] for s in range(8)]
    return merged(module, samples[0][0])[0], samples


def _distance(changed, graph, samples):
    return sum(float((evaluate(changed, s)[0] - evaluate(graph, s)[0]).square().sum()) for s in samples)


def test_the_fit_makes_up_for_part_of_the_ring_also_on_samples_it_did_not_see():
    graph, samples = _case()
    (offer,) = crop_kernels.offers(graph, Setting())
    assert offer.options == ("3x3",)
    plain = crop_kernels.apply(graph, {offer.site: "3x3"}, Setting())
    refitted = crop_kernels.apply(graph, {offer.site: "3x3"}, Setting(samples[:4]))
    verify(refitted)
    (name,) = offer.nodes
    assert refitted.node(name).operand("padding") == (1, 1)
    assert tuple(refitted.type_of(refitted.node(name).operand("weight")).shape) == (6, 1, 3, 3)
    for part in (samples[:4], samples[4:]):
        assert _distance(refitted, graph, part) < 0.8 * _distance(plain, graph, part)


def test_the_fit_of_a_dense_layer_finds_a_kernel_that_is_there():
    truth = Convolution(_random(4, 3, 3, 3), _random(4, seed=1), padding=(1, 1))
    start = Convolution(_random(4, 3, 3, 3, seed=9), _random(4, seed=8), padding=(1, 1))
    inputs = [_random(2, 3, 12, 12, seed=s) for s in range(4)]
    found = fitted(start, ((x, truth(x)) for x in inputs), 4 * 2 * 144, ridge=0.0)
    assert torch.allclose(found.weight, truth.weight, atol=1e-9)
    assert torch.allclose(found.bias, truth.bias, atol=1e-9)


def test_few_rows_move_the_bias_alone():
    truth = Convolution(_random(4, 3, 3, 3), _random(4, seed=1), padding=(1, 1))
    start = Convolution(_random(4, 3, 3, 3, seed=9), _random(4, seed=8), padding=(1, 1))
    x = _random(1, 3, 4, 4)
    found = fitted(start, [(x, truth(x))], 16)
    assert torch.equal(found.weight, start.weight)
    assert torch.allclose((found(x) - truth(x)).mean((0, 2, 3)), torch.zeros(4).double(), atol=1e-12)


def test_a_7x7_kernel_has_two_crops_and_one_without_room_has_none():
    graph, _ = merged(nn.Conv2d(3, 4, 7, padding=3), torch.randn(1, 3, 12, 12))
    (offer,) = crop_kernels.offers(graph, Setting())
    assert offer.options == ("5x5", "3x3")
    for module in (nn.Conv2d(3, 4, 5), nn.Conv2d(3, 4, 4, padding=1), nn.Conv2d(3, 4, 3, padding=1)):
        graph, _ = merged(module, torch.randn(1, 3, 12, 12))
        assert crop_kernels.offers(graph, Setting()) == ()
