r"""What healing minimises: how far a graph's outputs are from the original's, on unlabelled samples.

    logits [N, C], one output    :math:`\mathrm{mean}_n \sum_c p(c) (\log p(c) - \log \hat p(c))`
    all else                     :math:`\sum_y \|\hat y - y\|^2 / \|y\|^2`

with p the softmax of the original's logits and y its outputs. Both are 0 where nothing changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from compiler.errors import UsageError
from compiler.evaluate import evaluate
from compiler.ir.graph import Graph

Samples = Sequence[Sequence[torch.Tensor]]
Outputs = tuple[torch.Tensor, ...]  # the floating outputs of a call, in order


@dataclass(frozen=True)
class Halves:
    """Calls to fit on, and calls to judge by that nothing was fitted on; each the flat inputs of a call.

    `images` is the number of samples in both, counting what a call's first dimension holds.
    """

    fit: Samples = field(repr=False)
    judge: Samples = field(repr=False)
    images: int


def halves(samples: Samples) -> Halves:
    """Return every other call in each half; raises UsageError for fewer than two calls."""
    if len(samples) < 2:
        raise UsageError(
            f"healing is judged on samples it was not fitted on: give at least two calls, got {len(samples)}"
        )
    return Halves(samples[::2], samples[1::2], sum(_rows(sample) for sample in samples))


def floating(results: Sequence[Any]) -> Outputs:
    """Return the floating tensors among the results of a call."""
    return tuple(r for r in results if isinstance(r, torch.Tensor) and r.is_floating_point())


def reference(graph: Graph, samples: Samples) -> list[Outputs]:
    """Return the floating outputs of a graph on each call."""
    return [floating(evaluate(graph, sample)) for sample in samples]


def distance(wanted: Sequence[Outputs], found: Sequence[Outputs]) -> torch.Tensor:
    """Return the loss over all calls; gradients flow through `found`."""
    columns = list(zip(zip(*wanted, strict=True), zip(*found, strict=True), strict=True))
    if len(columns) == 1 and wanted[0][0].dim() == 2 and wanted[0][0].shape[1] > 1:
        return _divergence(*(torch.cat(calls) for calls in columns[0]))
    return sum((_relative(y, z) for y, z in columns), torch.zeros(()))


def cost(graph: Graph, wanted: Sequence[Outputs], samples: Samples) -> float:
    """Return the loss of a graph on calls whose original outputs are `wanted`."""
    return float(distance(wanted, reference(graph, samples)))


def _divergence(wanted: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    log_p, log_q = torch.log_softmax(wanted.double(), 1), torch.log_softmax(found.double(), 1)
    return (log_p.exp() * (log_p - log_q)).sum(1).mean()


def _relative(wanted: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> torch.Tensor:
    signal = sum(float(y.double().square().sum()) for y in wanted) or 1.0
    noise = [(z.double() - y.double()).square().sum() for y, z in zip(wanted, found, strict=True)]
    return torch.stack(noise).sum() / signal


def _rows(sample: Sequence[torch.Tensor]) -> int:
    return int(sample[0].shape[0]) if sample and sample[0].dim() else 1
