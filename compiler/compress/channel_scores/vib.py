r"""Gates of a variational information bottleneck, as scores.

Each unit is multiplied by :math:`z = \mu + \varepsilon\sigma`. With frozen weights,

    :math:`KL(p\,\|\,p_z) + \beta \sum_u \tfrac12 \log(1 + \mu_u^2/\sigma_u^2)
    + \lambda_1 (s - s^*) + \lambda_2 (s - s^*)^2`

is lowered in :math:`\mu, \log\sigma^2` and raised in :math:`\lambda`; s is the share of read weights whose
units are gone, from soft keeps :math:`\mathrm{sigmoid}(-10 \log\alpha)`, :math:`\log\alpha =
\log\sigma^2 - \log(\mu^2 + 10^{-8})`; :math:`s^*` rises linearly. The middle term is the divergence from
the best prior N(0, v), :math:`v = \mu^2 + \sigma^2`. Units with the least :math:`\log\alpha` are worth most,
and :math:`\mu` folds into the weights that read them. VTrans (arXiv 2406.05276); TVA-Prune.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from compiler.compress.channel_groups import Channels, Group
from compiler.compress.channel_readers import (
    aligned,
    channel_dim,
    columns,
    logits,
    readers_of,
    run_gated,
    units_read,
)
from compiler.compress.channel_scores import Rating
from compiler.compress.channel_walk import Reader
from compiler.compress.decision import Sample
from compiler.ir.graph import Graph

CRITERION = "vib"
TARGET = 0.5  # the share of read weights to take away, the most that an option does
STEPS, WARM_UP = 64, 32
RATE, LAMBDA_RATE, KL_FACTOR = 0.05, 0.1, 1e-6


@dataclass(frozen=True, eq=False)
class Gates:
    """The mean and log-variance of the gate of each unit of the graph, [units]."""

    mean: torch.Tensor
    log_variance: torch.Tensor

    def log_alpha(self) -> torch.Tensor:
        """Return the noise of each gate against its signal."""
        return self.log_variance - (self.mean.square() + 1e-8).log()

    def divergence(self) -> torch.Tensor:
        """Return the divergence of each gate from its best prior, in nats."""
        return 0.5 * torch.log1p(self.mean.square() / self.log_variance.exp())

    def keep(self) -> torch.Tensor:
        """Return how far each unit is kept, from 0 to 1."""
        return torch.sigmoid(-10 * self.log_alpha())


def first_gates(count: int, generator: torch.Generator) -> Gates:
    """Return gates that are open: mean about 1, log-variance about -9."""
    draw = [torch.randn(count, generator=generator, dtype=torch.float64) for _ in range(2)]
    return Gates(1 + 0.01 * draw[0], -9 + 0.01 * draw[1])


def sparsity(gates: Gates, weights: torch.Tensor) -> torch.Tensor:
    """Return the expected share of weights that are gone, `weights` counting those of each unit."""
    return 1 - (gates.keep() * weights).sum() / weights.sum()


def rate(
    graph: Graph, channels: Channels, groups: Sequence[Group], samples: Sequence[Sample]
) -> list[Rating]:
    """Train gates for all groups at once, from a fixed seed, and return them."""
    gates = _train(graph, channels, groups, samples)
    score, mean = -gates.log_alpha().detach(), gates.mean.detach()
    own = [torch.from_numpy(group.units) for group in groups]
    return [Rating(score[units], mean[units]) for units in own]


def _train(graph: Graph, channels: Channels, groups: Sequence[Group], samples: Sequence[Sample]) -> Gates:
    generator = torch.Generator().manual_seed(0)
    gates = first_gates(channels.count, generator)
    learnt = [gates.mean.requires_grad_(), gates.log_variance.requires_grad_()]
    weights = _weights(graph, channels, groups)
    multipliers = torch.zeros(2, dtype=torch.float64)
    optimizer = torch.optim.Adam(learnt, RATE)
    with torch.no_grad():
        wanted = [logits(run_gated(graph, s, (), lambda _, x: x)).log_softmax(-1) for s in samples]
    for step in range(STEPS):
        place = step % len(samples)
        draw = torch.randn(channels.count, generator=generator, dtype=torch.float64)
        with torch.enable_grad():
            results = _gated(graph, channels, groups, gates, draw, samples[place])
            excess = sparsity(gates, weights) - TARGET * min(1.0, step / WARM_UP)
            limits = torch.stack([excess, excess.square()])
            loss = F.kl_div(
                logits(results).log_softmax(-1), wanted[place], reduction="batchmean", log_target=True
            )
            own = gates.divergence()[weights > 0].sum()
            optimizer.zero_grad()
            (loss + KL_FACTOR * own + (multipliers * limits).sum()).backward()  # type: ignore[no-untyped-call]  # torch's own
        optimizer.step()
        multipliers += LAMBDA_RATE * limits.detach()
    return gates


def _gated(
    graph: Graph,
    channels: Channels,
    groups: Sequence[Group],
    gates: Gates,
    draw: torch.Tensor,
    sample: Sample,
) -> list[torch.Tensor]:
    """Run with every unit of the groups multiplied by a draw of its gate; others pass as they are."""
    open_ = torch.ones(channels.count, dtype=torch.bool)
    for group in groups:
        open_[torch.from_numpy(group.units)] = False
    z = torch.where(open_, 1.0, gates.mean + draw * (0.5 * gates.log_variance).exp())

    def gate(reader: Reader, x: torch.Tensor) -> torch.Tensor:
        units = torch.from_numpy(units_read(graph, channels, reader))
        return x * aligned(z[units], x, channel_dim(graph, reader))

    return run_gated(graph, sample, readers_of(groups), gate)


def _weights(graph: Graph, channels: Channels, groups: Sequence[Group]) -> torch.Tensor:
    """Return how many stored numbers read each unit; 0 for units of no group."""
    counts = torch.zeros(channels.count, dtype=torch.float64)
    for group in groups:
        inside = torch.zeros(channels.count, dtype=torch.float64)
        inside[torch.from_numpy(group.units)] = 1
        for reader in group.readers:
            units = torch.from_numpy(units_read(graph, channels, reader))
            each = torch.full((len(units),), columns(graph, reader).shape[1], dtype=torch.float64)
            counts += torch.zeros_like(counts).index_add(0, units, each) * inside
    return counts
