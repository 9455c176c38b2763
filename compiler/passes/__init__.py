"""The exact passes that run before merging, in the order they run."""

from __future__ import annotations

from collections.abc import Callable

from compiler.ir.graph import Graph
from compiler.passes.canonicalize import canonicalize
from compiler.passes.common import share_computations
from compiler.passes.copies import resolve_copies
from compiler.passes.dead_code import dead_code
from compiler.passes.fold_weights import fold_weights
from compiler.passes.neutral import drop_neutral
from compiler.passes.share import share

Pass = Callable[[Graph], Graph]

PIPELINE: tuple[tuple[str, Pass], ...] = (
    ("canonicalize", canonicalize),
    ("copies", resolve_copies),
    ("share", share),
    ("fold_weights", fold_weights),
    ("drop_neutral", drop_neutral),
    ("share_computations", share_computations),
    ("dead_code", dead_code),
)
