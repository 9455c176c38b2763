r"""Least-squares refit: the affine map that best gives a known output from the inputs at hand.

After inputs of a linear map were dropped, narrowed or rounded, with X the inputs that are left (one row
a position) and Y the output the map had before,

    :math:`[V; c] = (A^\top A + \lambda I)^{-1} A^\top Y, \qquad A = [X\ 1], \quad
    \lambda = \rho \cdot \mathrm{mean}(\mathrm{diag}(A^\top A))`

It needs no labels and no iterations, and folds into the layer that reads the inputs. With
:math:`\lambda \to 0` its error on the fit rows is never above that of any other affine map.
"""

from __future__ import annotations

import torch

from compiler.errors import UsageError

RIDGE = 1e-2


def refit(
    inputs: torch.Tensor, target: torch.Tensor, ridge: float = RIDGE
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Return the weight [out, in] and bias [out] of the affine map from inputs to target, in float64.

    Args:
        inputs: [rows, in].
        target: [rows, out].
        ridge: :math:`\rho`, the damping in units of the mean diagonal.

    Raises UsageError without rows, where the rows do not match, and for values that are not finite.
    """
    if inputs.dim() != 2 or target.dim() != 2 or len(inputs) != len(target) or not len(inputs):
        raise UsageError(
            f"a refit takes inputs [rows, in] and a target [rows, out] with at least one row, got "
            f"{list(inputs.shape)} and {list(target.shape)}"
        )
    x = torch.cat([inputs.double(), inputs.new_ones(len(inputs), 1).double()], 1)
    gram, moment = x.T @ x, x.T @ target.double()
    if not bool(torch.isfinite(gram).all() and torch.isfinite(moment).all()):
        raise UsageError("a refit needs finite inputs and targets; some are NaN or infinite")
    damping = ridge * gram.diagonal().mean()
    solution = _solve(gram + damping * torch.eye(len(gram), dtype=gram.dtype), moment)
    return solution[:-1].T.contiguous(), solution[-1]


def _solve(gram: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
    """Return the solution of least norm, by eigenvalues, where inputs depend on each other."""
    factor, failed = torch.linalg.cholesky_ex(gram)
    if not failed and float(factor.diagonal().min()) > 1e-7 * float(factor.diagonal().max()):
        return torch.cholesky_solve(moment, factor)
    inverse: torch.Tensor = torch.linalg.pinv(gram, rtol=1e-13, hermitian=True)
    return inverse @ moment
