"""The refit is the least-squares optimum on its rows, and damped where it must be."""

import pytest
import torch

from compiler.compress.least_squares import refit
from compiler.errors import UsageError


def drawn(*sizes, seed=0):
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


def correlated(rows, width, seed=0):
    return drawn(rows, width, seed=seed) @ drawn(width, width, seed=seed + 1) + 0.7


def mse(inputs, target, weight, bias):
    return float((inputs.double() @ weight.T.double() + bias - target).square().mean())


def test_an_affine_map_is_found_again():
    x, weight, bias = correlated(200, 7), drawn(4, 7, seed=5).double(), drawn(4, seed=6).double()
    found, offset = refit(x, x.double() @ weight.T + bias, ridge=0.0)
    assert torch.allclose(found, weight, atol=1e-8) and torch.allclose(offset, bias, atol=1e-8)


@pytest.mark.parametrize("kept", [3, 6, 9])
def test_after_dropping_inputs_the_refit_is_below_the_cut_weight_and_all_near_it(kept):
    x, weight = correlated(300, 12), drawn(5, 12, seed=3).double()
    y = x.double() @ weight.T
    found, offset = refit(x[:, :kept], y, ridge=0.0)
    best = mse(x[:, :kept], y, found, offset)
    assert best < mse(x[:, :kept], y, weight[:, :kept], 0.0)
    for seed in range(20):
        moved = found + 0.01 * drawn(5, kept, seed=seed)
        assert mse(x[:, :kept], y, moved, offset) > best


def test_the_damping_is_the_given_share_of_the_mean_diagonal():
    x, y = correlated(50, 4), drawn(50, 2, seed=9)
    a = torch.cat([x.double(), torch.ones(50, 1)], 1)
    gram = a.T @ a
    wanted = torch.linalg.solve(gram + 0.3 * gram.diagonal().mean() * torch.eye(5), a.T @ y.double())
    weight, bias = refit(x, y, ridge=0.3)
    assert torch.allclose(weight, wanted[:4].T, atol=1e-10) and torch.allclose(bias, wanted[4], atol=1e-10)


def test_inputs_that_repeat_each_other_do_not_break_the_undamped_fit():
    x = correlated(40, 3)
    y = x.double() @ drawn(3, 2, seed=4).double()
    twice = torch.cat([x, x], 1)
    assert mse(twice, y, *refit(twice, y, ridge=0.0)) < 1e-10


@pytest.mark.parametrize(
    ("inputs", "target", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0, 2), "at least one row"),
        (torch.zeros(4, 3), torch.zeros(5, 2), r"got \[4, 3\] and \[5, 2\]"),
        (torch.full((4, 3), torch.nan), torch.zeros(4, 2), "NaN"),
    ],
)
def test_what_cannot_be_fitted_is_refused(inputs, target, message):
    with pytest.raises(UsageError, match=message):
        refit(inputs, target)
