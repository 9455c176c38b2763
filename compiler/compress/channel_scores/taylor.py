r"""First-order change of the logit margin when a unit goes.

With a factor :math:`g_u = 1` on all that a unit gives to its readers, and the margin m between the two
largest logits,

    :math:`s_u = \overline{\,|\partial m / \partial g_u|\,}
    = \overline{\,|\sum_{c \in u} x_c\, \partial m / \partial x_c|\,}`

over samples. The margin and not the cross-entropy: where a sample is fit already, the gradient of the
latter vanishes and its scores are worse than random.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from compiler.compress.channel_groups import Channels, Group
from compiler.compress.channel_readers import aligned, by_unit, channel_dim, logits, readers_of, run_gated
from compiler.compress.channel_scores import Rating
from compiler.compress.channel_walk import Reader
from compiler.compress.decision import Sample
from compiler.ir.graph import Graph

CRITERION = "taylor"


def rate(
    graph: Graph, channels: Channels, groups: Sequence[Group], samples: Sequence[Sample]
) -> list[Rating]:
    """Return the mean absolute change of the margin for each unit."""
    readers = readers_of(groups)
    totals = [torch.zeros(len(group.units), dtype=torch.float64) for group in groups]
    for sample in samples:
        changes = by_unit(graph, channels, _changes(graph, readers, sample))
        for total, group in zip(totals, groups, strict=True):
            total += _size([changes[r] for r in group.readers])[torch.from_numpy(group.units)]
    return [Rating(total / len(samples)) for total in totals]


def _changes(graph: Graph, readers: Sequence[Reader], sample: Sample) -> dict[Reader, torch.Tensor]:
    """Return how fast the margin changes with a factor on each channel, [rows, channels]."""
    gates: dict[Reader, torch.Tensor] = {}

    def gated(reader: Reader, x: torch.Tensor) -> torch.Tensor:
        dim = channel_dim(graph, reader)
        rows = x.shape[0] if dim else 1
        gates[reader] = x.new_ones(rows, x.shape[dim]).requires_grad_()
        return x * aligned(gates[reader], x, dim)

    with torch.enable_grad():
        margin = _margin(logits(run_gated(graph, sample, readers, gated)))
        found = torch.autograd.grad(margin, list(gates.values()), allow_unused=True)
    pairs = zip(gates.items(), found, strict=True)
    return {r: torch.zeros_like(gate) if g is None else g for (r, gate), g in pairs}


def _margin(classes: torch.Tensor) -> torch.Tensor:
    """Return the difference of the two largest logits, summed; a lone result stands for itself."""
    if classes.dim() == 0 or classes.shape[-1] == 1:
        return classes.sum()
    first, second = classes.topk(2, -1).values.unbind(-1)
    return (first - second).sum()


def _size(changes: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the mean absolute sum over readers; rows are summed first where readers differ in them."""
    if len({len(c) for c in changes}) > 1:
        changes = [c.sum(0, keepdim=True) for c in changes]
    return torch.stack(list(changes)).sum(0).abs().mean(0)
