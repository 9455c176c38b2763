"""Pruning of coupled channels, heads and FFN neurons, each group to a size on the device's step.

A site is a group of `compiler.compress.channel_groups`, named by the module that makes its channels:
`channels:stages.1.0` or `heads:blocks.3`. An option is the number of units kept, about 87.5, 75, 62.5 and
50% of them: `keep:24`; where units lie in different weights, each kind is cut by the same part. `keep:24:lrp`
says by which criterion of `compiler.compress.channel_scores` units are chosen; the default, `activation`,
needs no gradients, and a refit levels most of what criteria differ in.

All groups chosen are scored on the graph as it is given, cut at once, and the layers that read them
are refitted in order (`compiler.compress.refit_readers`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch

from compiler.compress.channel_groups import Channels, Group, find_channels
from compiler.compress.channel_readers import readers_of, units_read
from compiler.compress.channel_scores import Rating, criteria
from compiler.compress.cut_channels import Mask, cut, scaled
from compiler.compress.decision import KEEP, Offer, Setting
from compiler.compress.refit_readers import refit_readers
from compiler.errors import UsageError
from compiler.ir.graph import Graph

METHOD = "prune_channels"
PARTS = (0.875, 0.75, 0.625, 0.5)
DEFAULT = "activation"

_Sizes: TypeAlias = tuple[int, ...]  # how many units of each kind stay
_Chosen: TypeAlias = dict[str, tuple[Group, _Sizes]]  # by site


def offers(graph: Graph, setting: Setting) -> tuple[Offer, ...]:
    """Return a site for each group that can be cut, in topological order; none without samples."""
    if not setting.samples:
        return ()
    found = [(group, _options(group, setting.step)) for group in find_channels(graph).offered()]
    return tuple(Offer(group.site, tuple(options), group.nodes) for group, options in found if options)


def apply(graph: Graph, choices: Mapping[str, str], setting: Setting) -> Graph:
    """Return the graph with each chosen group cut to its size and its readers refitted.

    Raises UsageError for a site or an option that is not offered, with the reason where the site is a
    group that cannot be cut, and without samples.
    """
    chosen = {site: option for site, option in choices.items() if option != KEEP}
    if not chosen:
        return graph
    if not setting.samples:
        raise UsageError("pruning channels needs calibration samples: which channels matter is seen on them")
    channels = find_channels(graph)
    by_criterion: dict[str, _Chosen] = {}
    for site, option in chosen.items():
        group = _group(channels, site)
        sizes, criterion = _option(group, option, setting.step)
        by_criterion.setdefault(criterion, {})[site] = (group, sizes)
    kept = np.ones(channels.count, np.bool_)
    dense = graph
    for criterion, part in sorted(by_criterion.items()):
        groups = [group for group, _ in part.values()]
        ratings = criteria()[criterion].rate(dense, channels, groups, setting.samples)
        for (group, sizes), rating in zip(part.values(), ratings, strict=True):
            kept[group.units[~_best(group, rating, sizes)]] = False
        graph = _gated(graph, channels, groups, ratings)
    readers = readers_of(group for part in by_criterion.values() for group, _ in part.values())
    return refit_readers(dense, cut(graph, channels, kept), channels, kept, readers, setting.samples)


def _group(channels: Channels, site: str) -> Group:
    group = next((g for g in channels.groups if g.site == site), None)
    if group is None:
        sites = ", ".join(g.site for g in channels.offered()) or "none"
        raise UsageError(f"the model has no channels to prune at {site!r}; accepted: {sites}")
    if group.reason:
        raise UsageError(f"the channels at {site!r} cannot be pruned: {group.reason} (node {group.node!r})")
    return group


def _option(group: Group, option: str, step: int) -> tuple[_Sizes, str]:
    """Return the units of each kind that an option keeps, and the criterion that chooses them."""
    name, _, criterion = option.partition(":")[2].partition(":")
    sizes = _options(group, step)
    size, criterion = f"keep:{name}", criterion or DEFAULT
    if not option.startswith("keep:") or size not in sizes:
        raise UsageError(f"{option!r} is no option at {group.site!r}; accepted: {', '.join(sizes) or 'none'}")
    if criterion not in criteria():
        raise UsageError(
            f"{criterion!r} is no criterion for channels; accepted: {', '.join(sorted(criteria()))}"
        )
    return sizes[size], criterion


def _options(group: Group, step: int) -> dict[str, _Sizes]:
    """Return option -> units kept of each kind, the mildest first."""
    counts = np.bincount(group.kinds)
    units = step // int(np.gcd(step, group.width))  # a step's worth, in whole units
    found: dict[str, _Sizes] = {}
    for part in PARTS:
        sizes = tuple(min(int(n), max(units, round(part * n / units) * units)) for n in counts)
        if sum(sizes) < counts.sum():
            found.setdefault(f"keep:{sum(sizes)}", sizes)
    return found


def _best(group: Group, rating: Rating, sizes: _Sizes) -> Mask:
    """Return which units of a group stay: of each kind the best rated, the earlier one of equals."""
    best = np.zeros(len(group.units), np.bool_)
    scores = rating.scores.double().numpy()
    for kind, size in enumerate(sizes):
        own = np.flatnonzero(group.kinds == kind)
        best[own[np.argsort(-scores[own], kind="stable")[:size]]] = True
    return best


def _gated(graph: Graph, channels: Channels, groups: Sequence[Group], ratings: Sequence[Rating]) -> Graph:
    """Return the graph with the gates of a rating folded into the layers that read its units."""
    factors = torch.ones(channels.count, dtype=torch.float64)
    for group, rating in zip(groups, ratings, strict=True):
        if rating.gates is not None:
            factors[torch.from_numpy(group.units)] = rating.gates
    if bool((factors == 1).all()):
        return graph
    read = {r: torch.from_numpy(units_read(graph, channels, r)) for r in readers_of(groups)}
    return scaled(graph, {reader: factors[units] for reader, units in read.items()})
