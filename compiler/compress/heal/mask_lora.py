r"""MaskLoRA and ScaleLoRA: a pruned weight is trained by a low-rank change that keeps its zeros.

    MaskLoRA    :math:`W + \tfrac{\alpha}{r} (B A) \odot 1[W \ne 0]`, A drawn, B = 0
    ScaleLoRA   :math:`W \odot (B A)`, all entries of A and B :math:`1 / \sqrt r`, so that B A = 1

Both are the identity at the start, keep every zero in training as in the end, and are the weight itself
once multiplied out. Source: PERP, Zimmer et al., arXiv 2312.15230.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from compiler.compress.heal.objective import Halves
from compiler.compress.heal.train import train
from compiler.compress.heal.trainable import not_float, too_few, weights
from compiler.compress.weights import stored
from compiler.ir.graph import Graph

NAME = "mask_lora"
RANK, ALPHA, RATE = 16, 32.0, 5e-4
SPARSE = 0.1  # the share of zeros from which a weight counts as pruned


class MaskLora:
    """A weight [out, ...] with a masked low-rank addition."""

    def __init__(
        self, weight: torch.Tensor, rank: int, generator: torch.Generator, rate: float = RATE
    ) -> None:
        """Start from the weight; rows of A are drawn, B is zero."""
        out, width = weight.flatten(1).shape
        self.rate, self._weight, self._scale = rate, weight.detach(), ALPHA / RANK
        self._mask = (weight != 0).to(weight.dtype)
        drawn = torch.randn(rank, width, generator=generator) / width**0.5
        self._a = drawn.to(weight.dtype).requires_grad_()
        self._b = weight.new_zeros(out, rank).requires_grad_()

    def parameters(self) -> Sequence[torch.Tensor]:
        """Return A and B."""
        return self._a, self._b

    def tensor(self) -> torch.Tensor:
        """Return the weight they make."""
        added: torch.Tensor = self._mask * (self._b @ self._a).reshape(self._weight.shape)
        return self._weight + self._scale * added


class ScaleLora:
    """A weight [out, ...] with a low-rank factor for each entry."""

    def __init__(self, weight: torch.Tensor, rank: int, rate: float = RATE) -> None:
        """Start from the weight with factors of one."""
        out, width = weight.flatten(1).shape
        self.rate, self._weight = rate, weight.detach()
        self._a = weight.new_full((rank, width), rank**-0.5).requires_grad_()
        self._b = weight.new_full((out, rank), rank**-0.5).requires_grad_()

    def parameters(self) -> Sequence[torch.Tensor]:
        """Return A and B."""
        return self._a, self._b

    def tensor(self) -> torch.Tensor:
        """Return the weight they make."""
        factor = (self._b @ self._a).reshape(self._weight.shape)
        return self._weight * factor


def refusal(graph: Graph, original: Graph, parts: Halves) -> str | None:
    """Return why it is not done, None where it can be."""
    if not sparse(graph):
        return f"no weight has {SPARSE:.0%} zeros, so there is no pattern to keep"
    return not_float(graph) or too_few(parts)


def heal(graph: Graph, original: Graph, parts: Halves, seed: int) -> Graph:
    """Return the graph with its pruned weights trained through MaskLoRA."""
    generator = torch.Generator().manual_seed(seed)
    forms = {name: MaskLora(tensor, RANK, generator) for name, tensor in sparse(graph).items()}
    return train(graph, original, parts, forms, seed)


def sparse(graph: Graph) -> dict[str, torch.Tensor]:
    """Return the weights of layers that have a pattern of zeros, by name."""
    tensors = {name: stored(graph, name) for name in weights(graph)}
    return {n: t for n, t in tensors.items() if float((t == 0).double().mean()) >= SPARSE}
