import math

import numpy as np
import pytest
import torch

from compiler.ir.edit import Editor
from compiler.ir.graph import TensorType
from compiler.search.output_cost import CostKind, cost_kind, estimate, floating, sample_costs


def logits(seed: int, n: int = 64, c: int = 10) -> torch.Tensor:
    return torch.randn(n, c, generator=torch.Generator().manual_seed(seed))


def test_kl_equals_its_definition_in_nats() -> None:
    p, q = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.25, 0.25, 0.5]])
    expected = 0.5 * math.log(2) + 0.25 * math.log(0.5)
    assert sample_costs([(p.log(),)], [(q.log() + 3,)], CostKind.KL) == pytest.approx(expected)


def test_kl_is_zero_on_equal_outputs_and_grows_as_the_square_near_zero() -> None:
    x, noise = logits(0).double(), logits(1).double()
    at = [sample_costs([(x,)], [(x + e * noise,)], CostKind.KL).mean() for e in (0.0, 1e-2, 2e-2)]
    assert at[0] == 0
    assert at[2] / at[1] == pytest.approx(4, rel=0.05)


def test_kl_is_taken_from_the_reference_to_the_option() -> None:
    p, q = logits(0), logits(1)
    there = sample_costs([(p,)], [(q,)], CostKind.KL)
    assert not np.allclose(there, sample_costs([(q,)], [(p,)], CostKind.KL))
    expected = torch.nn.functional.kl_div(
        q.log_softmax(1), p.log_softmax(1), reduction="none", log_target=True
    ).sum(1)
    assert there == pytest.approx(expected.numpy(), rel=1e-5)


def test_one_cost_for_each_sample() -> None:
    x = logits(0, n=6)
    assert len(sample_costs([(x,), (x,)], [(x,), (x,)], CostKind.KL)) == 12
    image = torch.randn(4, 3, 5, 5)
    assert len(sample_costs([(image,)], [(image,)], CostKind.NMSE, batch=4)) == 4
    assert len(sample_costs([(image,)], [(image,)], CostKind.NMSE)) == 1


def test_normalised_mse_is_a_ratio_of_sums_added_over_outputs() -> None:
    a, b = torch.full((2, 3), 2.0), torch.full((2, 1, 2, 2), 5.0)
    costs = sample_costs([(a, b)], [(a + 0.2, b - 1.0)], CostKind.NMSE, batch=2)
    assert costs == pytest.approx([0.01 + 0.04] * 2)
    # scale free
    scaled = sample_costs([(a * 7, b * 9)], [((a + 0.2) * 7, (b - 1.0) * 9)], CostKind.NMSE, batch=2)
    assert scaled == pytest.approx(costs)


def test_a_silent_output_does_not_divide_by_zero() -> None:
    zero = torch.zeros(2, 3)
    assert sample_costs([(zero,)], [(zero,)], CostKind.NMSE, batch=2) == pytest.approx([0, 0])


@pytest.mark.parametrize(
    ("shapes", "kind"),
    [
        ([(4, 10)], CostKind.KL),
        ([(4, 1)], CostKind.NMSE),
        ([(4, 10, 3)], CostKind.NMSE),
        ([(4, 10), (4, 10)], CostKind.NMSE),
    ],
)
def test_kind_follows_the_outputs(shapes: list[tuple[int, ...]], kind: CostKind) -> None:
    editor = Editor()
    floats = [editor.input(f"x{i}", TensorType(shape, torch.float32)) for i, shape in enumerate(shapes)]
    labels = editor.input("labels", TensorType((4, 7), torch.int64))  # carries no cost, so it does not count
    editor.output([*floats, labels, 3])
    assert cost_kind(editor.finish()) is kind


def test_integer_and_literal_outputs_carry_no_cost() -> None:
    assert len(floating([torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64), 3, None])) == 1


def test_bootstrap_error_is_the_standard_error_of_the_mean() -> None:
    costs = np.random.default_rng(0).exponential(1.0, 400)
    found = estimate(costs)
    assert found.mean == pytest.approx(costs.mean())
    assert found.error == pytest.approx(costs.std() / 20, rel=0.1)
    assert found.low < found.mean < found.high
    assert found == estimate(costs)  # the same seed, the same interval
    assert found.samples == 400


def test_no_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        estimate(np.zeros(0))
