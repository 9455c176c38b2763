import math

import pytest
import torch

from compiler.compress.divergence import are_probabilities, js_divergence, kl_divergence

LN2 = math.log(2)


def logits(seed: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(200, 7, generator=torch.Generator().manual_seed(seed))


def test_js_is_symmetric_bounded_and_zero_on_equal_inputs() -> None:
    p, q = logits(0, 20), logits(1, 20)
    found = js_divergence(p, q)
    assert found == pytest.approx(js_divergence(q, p))
    assert 0 < found.min() <= found.max() <= LN2 + 1e-12
    assert js_divergence(p, p + 5).max() < 1e-12


def test_js_reaches_ln_2_where_no_class_is_shared_and_its_swapped_form_exceeds_it() -> None:
    p, q = torch.tensor([[60.0, 0.0]]), torch.tensor([[0.0, 60.0]])
    assert float(js_divergence(p, q)) == pytest.approx(LN2)
    middle = ((p.double().softmax(1) + q.double().softmax(1)) / 2).log()
    swapped = (kl_divergence(middle, p) + kl_divergence(middle, q)) / 2
    assert float(swapped) > LN2


def test_js_equals_its_definition() -> None:
    p, q = (logits(s).double().softmax(1) for s in (0, 1))
    m = (p + q) / 2
    expected = ((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)) / 2
    assert js_divergence(p.log(), q.log()) == pytest.approx(expected)


def test_probabilities_are_read_as_what_they_are() -> None:
    p, q = logits(0), logits(1)
    assert are_probabilities(p.softmax(1)) and not are_probabilities(p)
    found = kl_divergence(p.softmax(1), q.softmax(1))
    assert found == pytest.approx(kl_divergence(p, q), rel=1e-3, abs=1e-4)
    assert kl_divergence(p.log_softmax(1), q.log_softmax(1)) == pytest.approx(kl_divergence(p, q), rel=1e-4)


def test_a_probability_rounded_to_zero_costs_a_finite_amount() -> None:
    p, q = torch.tensor([[0.5, 0.499, 0.001]]), torch.tensor([[0.5, 0.5, 0.0]])
    assert 0 < float(kl_divergence(p, q)) < 0.02


def test_any_dimension_may_hold_the_classes() -> None:
    p, q = logits(0).reshape(5, 40, 7), logits(1).reshape(5, 40, 7)
    moved = kl_divergence(p.movedim(-1, 1), q.movedim(-1, 1), 1)
    assert moved == pytest.approx(kl_divergence(p, q))
