r"""The RMS of a channel times the norm of the weights that read it.

    :math:`s_u^2 = \sum_{c \in u} \overline{x_c^2}\, \|W_{:,c}\|^2`

over all readers: the energy that a unit gives to the sums behind it, were channels independent.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from compiler.compress.channel_groups import Channels, Group
from compiler.compress.channel_readers import by_unit, channel_dim, columns, readers_of
from compiler.compress.channel_scores import Rating
from compiler.compress.channel_walk import Reader
from compiler.compress.decision import Sample
from compiler.compress.observe import observed, rows
from compiler.ir.graph import Graph, Value

CRITERION = "activation"


@torch.no_grad()
def rate(
    graph: Graph, channels: Channels, groups: Sequence[Group], samples: Sequence[Sample]
) -> list[Rating]:
    """Return the root of the energy of each unit."""
    readers = readers_of(groups)
    sources: dict[Reader, Value] = {r: graph.node(r.node).operand("input") for r in readers}
    energy: dict[Reader, torch.Tensor] = {}
    counts: dict[Reader, int] = {}
    for values in observed(graph, list(dict.fromkeys(sources.values())), samples):
        for reader, source in sources.items():
            seen = rows(values[source], channel_dim(graph, reader))
            energy[reader] = energy.get(reader, 0) + seen.square().sum(0)
            counts[reader] = counts.get(reader, 0) + len(seen)
    given = {r: energy[r] / counts[r] * columns(graph, r).square().sum(1) for r in readers}
    units = by_unit(graph, channels, given)
    return [
        Rating(sum((units[r] for r in group.readers), torch.zeros(()))[torch.from_numpy(group.units)].sqrt())
        for group in groups
    ]
