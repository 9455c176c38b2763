"""Criteria that say which channels of a group matter: one file each, found by being in this folder.

A criterion is a module with

    CRITERION                                   its name in a plan
    rate(graph, channels, groups, samples)      a rating of each group's units, the same order

Scores are compared inside a group only. They need no labels.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol, cast

import torch

from compiler.compress.channel_groups import Channels, Group
from compiler.compress.decision import Sample
from compiler.ir.graph import Graph


@dataclass(frozen=True, eq=False)
class Rating:
    """What each unit of a group is worth, [units]; `gates` are factors that belong on those kept."""

    scores: torch.Tensor
    gates: torch.Tensor | None = None


class Criterion(Protocol):
    """A criterion, which its module is."""

    CRITERION: str

    def rate(
        self, graph: Graph, channels: Channels, groups: Sequence[Group], samples: Sequence[Sample]
    ) -> list[Rating]:
        """Return a rating for each group."""
        ...


@cache
def criteria() -> Mapping[str, Criterion]:
    """Return all criteria by name."""
    found = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]
    return {module.CRITERION: cast(Criterion, module) for module in found}
