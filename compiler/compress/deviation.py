r"""How far an averaged model's outputs are from those of the models it was made of.

For one output over all calls, with y the reference and y' what the average gives,

    relative RMS    :math:`\|y' - y\|_2 / \|y\|_2`
    relative max    :math:`\max |y' - y| / \max |y|`

Both are 0 where nothing changed. They are reported, never judged: what an average costs in accuracy
only a held-out score can say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

Outputs = Sequence[torch.Tensor]  # the floating outputs of one call, in order


@dataclass(frozen=True)
class Deviation:
    """The distance of one output from its reference; `max_abs` is in the output's own unit."""

    output: int
    relative_rms: float
    relative_max: float
    max_abs: float


def floating(results: Sequence[object]) -> tuple[torch.Tensor, ...]:
    """Return the floating tensors among a call's results, in float64."""
    return tuple(
        r.detach().double() for r in results if isinstance(r, torch.Tensor) and r.is_floating_point()
    )


def deviations(reference: Sequence[Outputs], found: Sequence[Outputs]) -> tuple[Deviation, ...]:
    """Return one deviation for each output, over all calls; a silent reference that moved is infinite."""
    columns = zip(zip(*reference, strict=True), zip(*found, strict=True), strict=True)
    return tuple(_deviation(index, own, other) for index, (own, other) in enumerate(columns))


def _deviation(index: int, reference: Outputs, found: Outputs) -> Deviation:
    pairs = [(r.double(), f.double()) for r, f in zip(reference, found, strict=True)]
    noise = sum(float((f - r).square().sum()) for r, f in pairs)
    signal = sum(float(r.square().sum()) for r, _ in pairs)
    largest = max((_largest(f - r) for r, f in pairs), default=0.0)
    scale = max((_largest(r) for r, _ in pairs), default=0.0)
    return Deviation(index, _ratio(math.sqrt(noise), math.sqrt(signal)), _ratio(largest, scale), largest)


def _largest(tensor: torch.Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else (math.inf if part else 0.0)
