"""The lossy stage of a build: a plan's decisions replayed on the merged graph."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from compiler.compress.apply import apply_plan
from edgewright.models.loaded import tensors
from edgewright.recipe import Recipe
from edgewright.stages import Prepared, Progress, Stage


def compress(prepared: Prepared, recipe: Recipe, progress: Progress) -> Stage | None:
    """Return the compressed stage, or None where the plan keeps everything as it is.

    Raises UsageError for a decision that names no site, method or option there is, and where
    int8 is asked for without calibration batches.
    """
    if not recipe.plan.decisions:
        return None
    start = time.perf_counter()
    graph = apply_plan(
        prepared.graph,
        recipe.plan,
        recipe.target,
        flat_batches(recipe.calibration),
        lambda done, total: progress(f"compress: {done} of {total} samples"),
        recipe.donor,
        prepared.branches,
    )
    return None if graph is prepared.graph else Stage("compress", graph, time.perf_counter() - start)


def flat_batches(batches: Sequence[tuple[Any, ...]]) -> list[list[torch.Tensor]]:
    """Return each batch as flat tensors in the order of a graph's inputs."""
    return [tensors(batch, {}) for batch in batches]
