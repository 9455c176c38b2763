"""The name a region goes by: the module path its operations share."""

from __future__ import annotations

import os
from collections.abc import Iterable

from compiler.ir.graph import Graph


def site(graph: Graph, names: Iterable[str]) -> str:
    """Return the module path that all the nodes share, or the first node's own."""
    paths = [p.split(".") for p in (graph.node(n).origin for n in names) if p]
    shared = os.path.commonprefix(paths)
    return ".".join(shared or (paths[0] if paths else []))
