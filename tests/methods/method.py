"""What a file in this folder states about one published method; `test_methods.py` judges it.

A file is data: `METHOD`, and the tuples `MERGES`, `REFUSALS` and `DEARER` (any may be absent) over its
own small train-form builders. Random statistics and parameters everywhere: default initial
values (zeros, ones, 1e-6) make wrong merges look right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from compiler.merge import Exactness

Built = tuple[nn.Module, tuple[torch.Tensor, ...]]
COSTS = "legal, but as one operation it costs"


@dataclass(frozen=True)
class Method:
    """One published train form -> deploy form equivalence."""

    section: str  # of the specification, "2.1"
    name: str
    paper: str  # "arXiv 2101.03697"
    mechanism: str  # "M2+M3": composition and branch sum


@dataclass(frozen=True)
class Merge:
    """A train form that must become exactly `after`: op name -> count over the whole graph.

    `folds` says that nothing but weights are computed: no region has to merge.
    """

    name: str
    build: Callable[[], Built]
    after: Mapping[str, int]
    exactness: Exactness = Exactness.REAL
    settings: Mapping[str, Any] = field(default_factory=dict)  # keywords of `judge.compiled`
    folds: bool = False
    gap: str = ""  # why it does not hold yet: a strict expected failure


@dataclass(frozen=True)
class Refusal:
    """A form that has no exact deploy form: `keeps` ops stay, and an attempt says `reason`.

    `reason` is a part of the attempt's reason, a refusal's or a barrier's; `node` is a part of the name of
    the node to blame.
    """

    name: str
    build: Callable[[], Built]
    keeps: Mapping[str, int]
    reason: str
    node: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    gap: str = ""


@dataclass(frozen=True)
class Dearer:
    """A form that could merge exactly and must not, since the merged form costs more.

    A kept attempt says `reason`, and blames `node`: parts of them, as with a refusal.
    """

    name: str
    build: Callable[[], Built]
    keeps: Mapping[str, int]
    reason: str = COSTS
    node: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    gap: str = ""
