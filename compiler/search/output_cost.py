"""What an option costs: how far the model's outputs move, on unlabelled samples.

For one output that looks like class logits (floating, shape [N, C] with C > 1) the cost of a sample
is the Kullback-Leibler divergence of the two softmax distributions in nats,

    KL(p_ref || p_opt) = sum_c p_ref(c) (log p_ref(c) - log p_opt(c)).

For all else it is the normalised mean squared error, summed over outputs y with equal weight,

    sum_y  |y_opt - y_ref|^2 / E|y_ref|^2,     the expectation over all samples,

a ratio of sums rather than a mean of ratios, so that a nearly silent sample cannot decide alone.
Both are 0 where nothing changes and about quadratic near 0. The mean over samples carries a
bootstrap standard error and a 95% percentile interval; samples are resampled, never their pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray

from compiler.ir.graph import Graph

RESAMPLES = 2000

Outputs = Sequence[torch.Tensor]  # one call's floating outputs, in order


class CostKind(StrEnum):
    """What the cost counts."""

    KL = "kl_nats"
    NMSE = "normalised_mse"


@dataclass(frozen=True)
class CostEstimate:
    """The mean cost over samples, its bootstrap standard error and 95% interval."""

    mean: float
    error: float
    low: float
    high: float
    samples: int


def cost_kind(graph: Graph) -> CostKind:
    """Return KL for a graph with one floating output of shape [N, C], C > 1, else the normalised MSE."""
    types = [graph.type_of(value) for _, value in graph.output.values()]
    floats = [t for t in types if t.dtype.is_floating_point]
    return (
        CostKind.KL if len(floats) == 1 and floats[0].rank == 2 and floats[0].shape[1] != 1 else CostKind.NMSE
    )


def floating(results: Sequence[object]) -> tuple[torch.Tensor, ...]:
    """Return the floating tensors among a call's results: those a cost can be read from."""
    return tuple(r for r in results if isinstance(r, torch.Tensor) and r.is_floating_point())


def sample_costs(
    reference: Sequence[Outputs], found: Sequence[Outputs], kind: CostKind, batch: int = 1
) -> NDArray[np.float64]:
    """Return one cost for each sample of all calls.

    `reference` and `found` hold the outputs of each call; `batch` is the number of samples in a
    call, 1 where the first dimension of the outputs is not the batch's.
    """
    if kind is CostKind.KL:
        parts = [_divergence(r[0], f[0]) for r, f in zip(reference, found, strict=True)]
        return np.concatenate(parts)
    total: NDArray[np.float64] = np.zeros(1)
    for index in range(len(reference[0])):
        own = [_rows(call[index], batch) for call in reference]
        other = [_rows(call[index], batch) for call in found]
        signal = np.concatenate([(r**2).sum(1).numpy() for r in own])
        noise = np.concatenate([((f - r) ** 2).sum(1).numpy() for r, f in zip(own, other, strict=True)])
        total = total + noise / (signal.mean() or 1.0)
    return total


def estimate(costs: NDArray[np.float64], seed: int = 0) -> CostEstimate:
    """Return the mean with its bootstrap error and interval; raises ValueError without samples."""
    if not len(costs):
        raise ValueError("a cost needs at least one sample")
    picks = np.random.default_rng(seed).integers(len(costs), size=(RESAMPLES, len(costs)))
    means = costs[picks].mean(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return CostEstimate(float(costs.mean()), float(means.std()), float(low), float(high), len(costs))


def _divergence(reference: torch.Tensor, found: torch.Tensor) -> NDArray[np.float64]:
    log_p, log_q = (torch.log_softmax(t.detach().double(), 1) for t in (reference, found))
    rows: NDArray[np.float64] = (log_p.exp() * (log_p - log_q)).sum(1).clamp_min(0).numpy()
    return rows


def _rows(tensor: torch.Tensor, batch: int) -> torch.Tensor:
    rows = batch if batch > 1 and tensor.dim() and tensor.shape[0] == batch else 1
    return tensor.detach().double().reshape(rows, -1)
