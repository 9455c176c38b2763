"""What a lossy method offers a search: sites with options, and one rewrite for all that was chosen.

A structural method is a file of this folder with

    METHOD                            its name in a plan
    offers(graph, setting)            the sites where it can do something
    apply(graph, choices, setting)    the graph with an option taken at each chosen site

The graph is the merged float graph, or what the methods before it in `compiler.compress.structure.ORDER`
made of that; a site is named from module paths, so that a plan survives a renaming, and an operation that
is not changed keeps its name. `apply` is deterministic: the same graph, choices and samples give the same
weights, so that a plan and its calibration data say all. It raises UsageError for a site or an option it
does not offer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from compiler.ir.graph import Graph

KEEP = "keep"  # the option of a site that a plan is silent on

Sample = Sequence[torch.Tensor]  # the flat inputs of one call


@dataclass(frozen=True)
class Offer:
    """A site with its options, the mildest first, `KEEP` not among them.

    `nodes` names the operations whose work the options change.
    """

    site: str
    options: tuple[str, ...]
    nodes: frozenset[str]


@dataclass(frozen=True)
class Setting:
    """What a method may look at beside the graph.

    `samples` are calls of the first calibration half, unlabelled; `step` is the number of channels the
    device works on at once; `donor` is a second, merged model of the same family, for stitching;
    `bytes_limited` tells that a program's size matters, and that its runtime computes weights as it loads it.
    """

    samples: Sequence[Sample] = ()
    step: int = 8
    donor: Graph | None = None
    bytes_limited: bool = False


class Method(Protocol):
    """A structural method, which its module is."""

    METHOD: str

    def offers(self, graph: Graph, setting: Setting) -> tuple[Offer, ...]:
        """Return the sites where something can be done, in topological order."""
        ...

    def apply(self, graph: Graph, choices: Mapping[str, str], setting: Setting) -> Graph:
        """Return the graph with an option taken at each site of `choices`."""
        ...
