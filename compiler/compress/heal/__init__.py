"""Healers: what moves a compressed graph's outputs back towards the original's without another operation.

A healer is a file of this folder with

    NAME                                      its name in a plan: `model heal NAME`
    heal(graph, original, samples, seed)      the same operations with other constants

`HEALERS` is the order they are tried in. Each raises UsageError where it cannot do anything for the
graph or the data, saying why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from compiler.compress.decision import Sample
from compiler.ir.graph import Graph


class Healer(Protocol):
    """A healer, which its module is."""

    NAME: str

    def heal(self, graph: Graph, original: Graph, samples: Sequence[Sample], seed: int) -> Graph:
        """Return the graph with constants that bring its outputs nearer to the original's."""
        ...


HEALERS: tuple[Healer, ...] = ()
