"""The judge passes float noise and fails anything that is not."""

import copy
import math

import pytest
import torch
from torch import nn

from edgewright.verification import judge, judge_lossy, report


def _deep(seed=0):
    torch.manual_seed(seed)
    parts = [
        part for _ in range(8) for part in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.LeakyReLU())
    ]
    model = nn.Sequential(*parts).eval()
    for conv in (m for m in model if isinstance(m, nn.Conv2d)):
        nn.init.kaiming_normal_(conv.weight)  # else the signal dies out, and every fault with it
    for norm in (m for m in model if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return model


@torch.no_grad()
def _results(model, seed=1):
    x = torch.randn(1, 8, 12, 12, generator=torch.Generator().manual_seed(seed))
    return [copy.deepcopy(model).double()(x.double())], [model(x)]


def _passes(found, double, single):
    return all(c.passed for c in judge("x", found, double, single))


def test_float_noise_passes():
    double, single = _results(_deep())
    assert _passes(single, double, single)
    assert _passes([double[0].float()], double, single)
    assert _passes([double[0].float() * (1 + 3e-6)], double, single)


@pytest.mark.parametrize("part", range(0, 24, 3))
def test_one_wrong_bias_fails(part):
    model = _deep()
    double, single = _results(model)
    with torch.no_grad():
        model[part].bias[0] += 1e-2
    assert not _passes(_results(model)[1], double, single)


def test_a_forgotten_epsilon_fails():
    model = _deep()
    double, single = _results(model)
    for norm in (m for m in model if isinstance(m, nn.BatchNorm2d)):
        norm.eps = 0.0
    assert not _passes(_results(model)[1], double, single)


def test_an_ill_conditioned_model_does_not_pass_whatever_it_returns():
    double = [torch.linspace(-1, 1, 100, dtype=torch.float64)]
    single = [(double[0] + 0.3).float()]
    assert not _passes(single, double, single)
    assert _passes([(double[0] + 0.009).float()], double, single)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_fails(value):
    double = [torch.ones(4, dtype=torch.float64)]
    found = torch.ones(4)
    found[2] = value
    assert not _passes([found], double, [torch.ones(4)])


def test_infinities_of_the_model_itself_must_come_back():
    masked = torch.tensor([1.0, -math.inf, 2.0])
    double = [masked.double()]
    assert _passes([masked], double, [masked])
    assert not _passes([-masked], double, [masked])
    assert not _passes([torch.tensor([1.0, 0.0, 2.0])], double, [masked])


def test_another_shape_fails():
    assert not _passes([torch.ones(2, 2)], [torch.ones(4, dtype=torch.float64)], [torch.ones(4)])


def test_an_output_of_zeros_allows_no_error():
    zeros = torch.zeros(4, dtype=torch.float64)
    assert _passes([zeros.float()], [zeros], [zeros.float()])
    assert not _passes([zeros.float() + 1e-7], [zeros], [zeros.float()])


def test_integers_are_compared_exactly():
    labels = torch.arange(1000)
    assert _passes([labels], [labels], [labels])
    wrong = labels.clone()
    wrong[0] = 5
    assert not _passes([wrong], [labels], [labels])


def test_a_quantized_program_may_err_as_much_as_its_quantization():
    generator = torch.Generator().manual_seed(0)
    original = torch.randn(1000, generator=generator)
    compressed = original + 0.02 * torch.randn(1000, generator=generator)
    near = compressed + 0.01 * torch.randn(1000, generator=generator)
    far = compressed + 0.04 * torch.randn(1000, generator=generator)
    assert all(c.passed for c in judge_lossy("x", [near], [compressed], [original]))
    assert not all(c.passed for c in judge_lossy("x", [far], [compressed], [original]))
    assert not all(c.passed for c in judge_lossy("x", [torch.zeros(1000)], [compressed], [original]))


def test_a_broken_quantization_does_not_widen_its_own_tolerance():
    original = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    garbage = -original
    assert not all(c.passed for c in judge_lossy("x", [original], [garbage], [original]))


def test_the_distance_to_the_original_is_reported_not_judged():
    (comparison,) = report("x", [torch.ones(4) * 1.1], [torch.ones(4, dtype=torch.float64)])
    assert comparison.passed
    assert comparison.tolerance is None
    assert comparison.snr_db == pytest.approx(20, abs=1e-3)
    assert comparison.max_abs_error == pytest.approx(0.1, abs=1e-6)


def test_documents_hold_no_value_that_json_lacks():
    (comparison,) = judge("x", [torch.ones(2)], [torch.ones(3, dtype=torch.float64)], [torch.ones(3)])
    assert comparison.document()["max_abs_error"] == "inf"
