"""The stages a model goes through before a target lowers it, each kept so that a fault can be placed.

    import -> each pass of `compiler.passes.PIPELINE` -> merge -> compress -> place_weights

`prepare` runs the exact part once; a search compresses and lowers the result many times. A program of
several methods goes through the stages once a method, at each method's own sizes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from compiler.cost.latency_table import LatencyTable
from compiler.cost.roofline import PRIOR, Roofline
from compiler.evaluate import evaluate
from compiler.frontends.torch_export import import_model, import_program
from compiler.ir.graph import Graph
from compiler.ir.verify import verify
from compiler.merge import Attempt, merge
from compiler.merge.branches import Branches, folded_branches
from compiler.passes import PIPELINE
from compiler.passes.load_time import load_generators
from compiler.passes.placement import Placement, placements
from compiler.target import FORWARD
from edgewright.models import LoadedModel
from edgewright.models.freezing import specialised

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
    """A model imported, canonicalised and merged: everything that does not depend on a plan.

    `method` is its name in the program; `attempts` come with the merge. `ranked` are the outputs,
    counted among tensors, that only have to rank as the original's do. `branches` are the sums that the
    merge folded.
    """

    model: LoadedModel
    stages: tuple[Stage, ...]
    attempts: tuple[Attempt, ...] = ()
    method: str = FORWARD
    ranked: frozenset[int] = frozenset()
    branches: Branches | None = None

    @property
    def graph(self) -> Graph:
        """The graph as the last stage left it."""
        return self.stages[-1].graph


@dataclass(frozen=True)
class Method:
    """One method of a program: a prepared model, and the stages that depend on the plan and the runtime.

    `compressed` is the lossy stage where a plan asks for one, `placed` the one that leaves weights to be
    computed at load where the runtime does that; `placements` say where each weight-only cone is computed.
    """

    prepared: Prepared
    compressed: Stage | None = None
    placed: Stage | None = None
    placements: tuple[Placement, ...] = ()

    @property
    def name(self) -> str:
        """The method's name in the program."""
        return self.prepared.method

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All stages, in order."""
        return (*self.prepared.stages, *(s for s in (self.compressed, self.placed) if s is not None))

    @property
    def graph(self) -> Graph:
        """The graph that is lowered."""
        return self.stages[-1].graph


def prepare(
    model: LoadedModel,
    progress: Progress = silent,
    table: LatencyTable | None = None,
    prior: Roofline = PRIOR,
) -> Prepared:
    """Import, canonicalise and merge a model; `table` prices the merges, or else the prior.

    Raises UnsupportedModelError naming the node and the user's line where it cannot be imported.
    """
    return merged(canonicalise(model, progress=progress), table, progress=progress, prior=prior)


def canonicalise(model: LoadedModel, method: str = FORWARD, progress: Progress = silent) -> Prepared:
    """Import a model and run the exact passes, up to the merge; errors as `prepare`."""
    stages: list[Stage] = []
    progress("import")
    _step(stages, "import", lambda: import_loaded(model))
    for name, run in PIPELINE:
        progress(name)
        _step(stages, name, lambda run=run: run(stages[-1].graph))  # type: ignore[misc]  # the default binds the loop's value
    return Prepared(model, tuple(stages), method=method)


def merged(
    source: Prepared,
    table: LatencyTable | None = None,
    keep: Collection[str] = (),
    progress: Progress = silent,
    prior: Roofline = PRIOR,
) -> Prepared:
    """Return a canonical model with its merge stage; sites in `keep` stay as they are.

    `prior` prices what `table` does not: a target's own where the target is known.
    """
    progress("merge")
    stages, attempts = list(source.stages), list(source.attempts)

    def run() -> Graph:
        graph, found = merge(source.graph, table, prior, keep)
        attempts.extend(found)
        return graph

    _step(stages, "merge", run)
    branches = folded_branches(source.graph, attempts, table, prior)
    return replace(source, stages=tuple(stages), attempts=tuple(attempts), branches=branches)


def place_weights(method: Method, folds_at_load: bool) -> Method:
    """Return a method with its weight-only cones placed, for a runtime that folds at load or does not."""
    source = ahead_of_folding(method.prepared.stages)
    if not folds_at_load:
        return replace(method, placements=placements(source))
    stages: list[Stage] = []
    found: list[Placement] = []

    def run() -> Graph:
        graph, placed = load_generators(method.graph, source)
        found.extend(placed)
        return graph

    _step(stages, "place_weights", run)
    return replace(method, placed=stages[0], placements=tuple(found))


def ahead_of_folding(stages: Sequence[Stage]) -> Graph:
    """Return the graph as it was before its weight-only cones were computed."""
    index = next(i for i, stage in enumerate(stages) if stage.name == "fold_weights")
    return stages[index - 1].graph


def import_loaded(model: LoadedModel) -> Graph:
    """Return the graph of a loaded model, its frozen inputs as constants."""
    if isinstance(model.source, torch.export.ExportedProgram):
        return specialised(import_program(model.source), model)
    args, kwargs = model.whole(model.args, model.kwargs)
    return specialised(import_model(model.source, args, kwargs, model.dynamic_shapes()), model)


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
