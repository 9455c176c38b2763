"""The exact passes that run before merging, in the order they run."""

from __future__ import annotations

from collections.abc import Callable

from compiler.ir.graph import Graph
from compiler.passes.canonicalize import canonicalize
from compiler.passes.dead_code import dead_code
from compiler.passes.fold_weights import fold_weights

Pass = Callable[[Graph], Graph]

PIPELINE: tuple[tuple[str, Pass], ...] = (
    ("canonicalize", canonicalize),
    ("fold_weights", fold_weights),
    ("dead_code", dead_code),
)
