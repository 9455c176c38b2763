"""The stages a model goes through before a target lowers it, each kept so that a fault can be placed.

    import -> each pass of `compiler.passes.PIPELINE` -> merge -> compress

`prepare` runs the exact part once; a search compresses and lowers the result many times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from compiler.evaluate import evaluate
from compiler.frontends.torch_export import import_model, import_program
from compiler.ir.graph import Graph
from compiler.ir.verify import verify
from compiler.merge import merge
from compiler.passes import PIPELINE
from edgewright.models import LoadedModel

Progress = Callable[[str], None]


def silent(message: str) -> None:
    """Report progress to nobody."""


@dataclass(frozen=True)
class Stage:
    """The graph as one step left it, and the seconds the step took."""

    name: str
    graph: Graph
    seconds: float


@dataclass(frozen=True)
class Prepared:
    """A model imported, canonicalised and merged: everything that does not depend on a plan."""

    model: LoadedModel
    stages: tuple[Stage, ...]
    attempts: tuple[Any, ...]

    @property
    def graph(self) -> Graph:
        """The merged graph."""
        return self.stages[-1].graph


def prepare(model: LoadedModel, progress: Progress = silent) -> Prepared:
    """Import, canonicalise and merge a model.

    Raises UnsupportedModelError naming the node and the user's line where it cannot be imported.
    """
    stages: list[Stage] = []
    progress("import")
    _step(stages, "import", lambda: import_loaded(model))
    for name, run in PIPELINE:
        progress(name)
        _step(stages, name, lambda run=run: run(stages[-1].graph))  # type: ignore[misc]  # the default binds the loop's value
    progress("merge")
    attempts: list[Any] = []

    def merged() -> Graph:
        graph, found = merge(stages[-1].graph)
        attempts.extend(found)
        return graph

    _step(stages, "merge", merged)
    return Prepared(model, tuple(stages), tuple(attempts))


def import_loaded(model: LoadedModel) -> Graph:
    """Return the graph of a loaded model."""
    if isinstance(model.source, torch.export.ExportedProgram):
        return import_program(model.source)
    return import_model(model.source, model.args, dict(model.kwargs), model.dynamic_shapes())


def first_difference(
    stages: Sequence[Stage], call: Sequence[torch.Tensor], same: Callable[[list[Any]], bool]
) -> str | None:
    """Return the name of the first stage whose float64 results are not the `same`, None if all are."""
    for stage in stages:
        if not same(evaluate(stage.graph, call, torch.float64)):
            return stage.name
    return None


def _step(stages: list[Stage], name: str, run: Callable[[], Graph]) -> None:
    start = time.perf_counter()
    graph = run()
    verify(graph)
    stages.append(Stage(name, graph, time.perf_counter() - start))
