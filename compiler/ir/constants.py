"""The bytes of constants that graphs hold, each content counted once: what a program of them stores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from compiler.ir.graph import Graph


def contents(graphs: Iterable[Graph]) -> dict[str, int]:
    """Return the size in bytes of each distinct content, by its digest."""
    return {
        constant.digest: constant.tensor.numel() * constant.tensor.itemsize
        for graph in graphs
        for constant in graph.constants.values()
        if constant.tensor is not None
    }


def constant_bytes(graphs: Iterable[Graph]) -> int:
    """Return the bytes of all constants, those of equal content counted once."""
    return sum(contents(graphs).values())


def shared_bytes(graphs: Mapping[str, Graph]) -> int:
    """Return the bytes that storing equal constants once saves over storing each graph's own."""
    return sum(constant_bytes([graph]) for graph in graphs.values()) - constant_bytes(graphs.values())
