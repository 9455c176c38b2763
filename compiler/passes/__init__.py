"""The exact passes that run before merging, in the order they run."""

from __future__ import annotations

from collections.abc import Callable

from compiler.ir.graph import Graph
from compiler.passes.activations import name_activations
from compiler.passes.canonicalize import canonicalize
from compiler.passes.common import share_computations
from compiler.passes.copies import resolve_copies
from compiler.passes.dead_channels import drop_dead_channels
from compiler.passes.dead_code import dead_code
from compiler.passes.factor import factor_out
from compiler.passes.fold_weights import fold_weights
from compiler.passes.lookup import fold_lookups
from compiler.passes.neutral import drop_neutral
from compiler.passes.norms import name_norms
from compiler.passes.products import unify_products
from compiler.passes.share import share
from compiler.passes.softmax import known_logits
from compiler.passes.tabulate import tabulate

Pass = Callable[[Graph], Graph]

PIPELINE: tuple[tuple[str, Pass], ...] = (
    ("canonicalize", canonicalize),
    ("copies", resolve_copies),
    ("share", share),
    ("fold_weights", fold_weights),
    ("tabulate", tabulate),
    ("unify_products", unify_products),
    ("known_logits", known_logits),
    ("drop_neutral", drop_neutral),
    ("share_computations", share_computations),
    ("name_activations", name_activations),
    ("name_norms", name_norms),
    ("factor_out", factor_out),
    ("dead_code", dead_code),
    ("fold_lookups", fold_lookups),
    ("drop_dead_channels", drop_dead_channels),
)
