r"""How far outputs move, for a method that must compare many variants itself.

Class scores and token distributions are compared by the Jensen-Shannon divergence of their softmax,

    :math:`m = (p + q) / 2, \qquad JS = \tfrac12 KL(p \| m) + \tfrac12 KL(q \| m) \le \ln 2`

as a mean over samples and positions: symmetric, and bounded, so that one sample that breaks cannot decide
alone. (With the arguments of KL exchanged it is not bounded.) All else is the normalised squared error,
summed over outputs, :math:`\sum |y' - y|^2 / \sum |y|^2` over all samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from compiler.ir.graph import Graph

Outputs = Sequence[torch.Tensor]
Distance = Callable[[int, Sequence[object]], float]


def jensen_shannon(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the divergence of two sets of logits [..., classes], in nats, one for each row."""
    log_p, log_q = (torch.log_softmax(t.double(), -1) for t in (one, other))
    half = torch.tensor(0.5, dtype=torch.float64).log()
    log_m = torch.logaddexp(log_p, log_q) + half
    parts = [(log.exp() * (log - log_m)).nan_to_num(0.0).sum(-1) for log in (log_p, log_q)]
    return (0.5 * (parts[0] + parts[1])).clamp_min(0)


def scores(graph: Graph) -> bool:
    """Tell whether a graph gives class scores: one floating output, [N, C], or [N, T, C] from token ids."""
    types = [graph.type_of(value) for _, value in graph.output.values()]
    floats = [t for t in types if t.dtype.is_floating_point]
    tokens = any(not n.type.dtype.is_floating_point for n in graph.inputs())
    return (
        len(floats) == 1 and floats[0].shape[-1:] != (1,) and floats[0].rank in ((2, 3) if tokens else (2,))
    )


def floating(results: Sequence[object]) -> list[torch.Tensor]:
    """Return the floating tensors among a call's results, in float64."""
    return [r.double() for r in results if isinstance(r, torch.Tensor) and r.is_floating_point()]


def distance_to(graph: Graph, references: Sequence[Sequence[object]]) -> Distance:
    """Return a function of (sample, results) whose sum over all samples is the distance.

    `references` are the flat results of the original for each sample.
    """
    wanted = [floating(r) for r in references]
    if scores(graph):
        count = sum(r[0].shape[:-1].numel() for r in wanted)
        return lambda index, found: (
            float(jensen_shannon(wanted[index][0], floating(found)[0]).sum()) / count
        )
    sizes = [sum(float(call[i].square().sum()) for call in wanted) or 1.0 for i in range(len(wanted[0]))]

    def squared(index: int, found: Sequence[object]) -> float:
        pairs = zip(wanted[index], floating(found), sizes, strict=True)
        return sum(float((own - other).square().sum()) / size for own, other, size in pairs)

    return squared
