r"""How far one distribution is from another, in nats: Kullback-Leibler and Jensen-Shannon.

    :math:`KL(p \| q) = \sum_c p_c (\log p_c - \log q_c)`
    :math:`JS(p, q) = \frac12 KL(p \| m) + \frac12 KL(q \| m), \qquad m = (p + q) / 2`

KL has no upper bound; JS is symmetric and at most :math:`\ln 2`, reached where p and q share no class.
Both are 0 where p = q. A common slip takes KL(m || p) for KL(p || m) in JS: that form is unbounded.

An output is read as logits, so a shift that a whole row shares changes nothing, or as probabilities
where the reference's rows are non-negative and sum to one. A probability below `LEAST` counts as that:
an int8 softmax rounds small ones to zero, which must not cost infinitely much.
"""

from __future__ import annotations

import torch

LEAST = 1e-7
_SUM = 1e-4  # how far a float32 softmax may be from one


def kl_divergence(reference: torch.Tensor, found: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """Return KL(reference || found) over `dim`, float64, of two tensors of logits (or probabilities)."""
    log_p, log_q = log_distributions(reference, found, dim)
    return _divergence(log_p, log_q, dim)


def js_divergence(reference: torch.Tensor, found: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """Return the Jensen-Shannon divergence over `dim`, float64, between 0 and ln 2."""
    log_p, log_q = log_distributions(reference, found, dim)
    log_m = torch.logaddexp(log_p, log_q) - torch.tensor(2.0, dtype=torch.float64).log()
    return (_divergence(log_p, log_m, dim) + _divergence(log_q, log_m, dim)) / 2


def log_distributions(
    reference: torch.Tensor, found: torch.Tensor, dim: int = -1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log p and log q over `dim` in float64; both are probabilities where the reference's are."""
    if are_probabilities(reference, dim):
        p, q = _from_probabilities(reference, dim), _from_probabilities(found, dim)
    else:
        p, q = (torch.log_softmax(t.detach().double(), dim) for t in (reference, found))
    return p, q


def are_probabilities(values: torch.Tensor, dim: int = -1) -> bool:
    """Tell whether all values are non-negative and sum to one over `dim`, to the dtype's rounding."""
    off = (values.detach().double().sum(dim) - 1).abs()
    return bool((values >= 0).all() and (off <= max(_SUM, 8 * torch.finfo(values.dtype).eps)).all())


def _from_probabilities(values: torch.Tensor, dim: int) -> torch.Tensor:
    least = values.detach().double().clamp_min(LEAST)
    return (least / least.sum(dim, keepdim=True)).log()


def _divergence(log_p: torch.Tensor, log_q: torch.Tensor, dim: int) -> torch.Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(dim).clamp_min(0)
