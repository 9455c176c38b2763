"""Offline averaging: several checkpoints, or the parallel experts of one model, become one.

load -> average -> gather BatchNorm statistics again -> measure -> export -> check -> put in place

Averaging does not keep the function. What it moved is measured on batches and written beside the
result, and `edgewright compile` starts from that result as from any other model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compiler.compress.average_experts import AveragedExperts, average_experts
from compiler.compress.quantize import split
from compiler.errors import UsageError
from compiler.evaluate import evaluate
from compiler.export import export_graph
from compiler.frontends.stochastic import import_stochastic
from compiler.ir.graph import Graph
from compiler.ir.verify import verify
from compiler.passes import PIPELINE
from edgewright.artifact import check_replaceable
from edgewright.average_output import (
    Average,
    Draft,
    batch_norm_document,
    deviation_document,
    kl_nats,
    noisy_statistics,
    plain,
    write_average,
)
from edgewright.checkpoints import Checkpoint
from edgewright.compression import flat_batches
from edgewright.models import LoadedModel, load_model
from edgewright.models.loaded import tensors
from edgewright.models.python_source import find_attribute, guarded
from edgewright.soups import Batches, Score, make_soup
from edgewright.stages import Progress, silent

METHODS = ("uniform", "greedy", "experts")
WIDE_SPREAD = 0.1  # experts further apart than this share have not been pulled together by training


def average(
    model: str | nn.Module | torch.export.ExportedProgram,
    checkpoints: Sequence[Checkpoint] = (),
    method: str = "uniform",
    batches: Sequence[Any] = (),
    score: Score | None = None,
    inputs: Any = None,
    out: str | Path = "out",
    *,
    labels: Sequence[torch.Tensor] | None = None,
    progress: Progress = silent,
) -> Average:
    """Average checkpoints of a model, or the experts inside it, into a folder that can be compiled.

    Args:
        model: a module in eval mode, or a text such as `file.py:attr`; for experts also a program.
        checkpoints: the ingredients of a soup: files, state dicts or modules of that architecture.
        method: `uniform`, `greedy` (by `score`), or `experts` (parallel subgraphs under a random
            partition, no checkpoints).
        batches: each a tensor or a tuple of the model's arguments, several samples in each; statistics
            are gathered and deviations measured on them.
        score: takes the module in eval mode and returns a number, more is better, from held-out data.
        inputs: example inputs (a tensor, a tuple, a dict) or a list of `InputSpec`.
        out: the folder to write; one that an average stands in is replaced.
        labels: class indices for each batch; the score is then the accuracy on the batches.
        progress: called with the name of each step.

    Raises:
        UsageError: something given cannot be read or does not fit, or `out` cannot be written.
        UnsupportedModelError: the experts cannot be averaged, or the result cannot be exported.
        NumericError: the saved program does not compute what was averaged.
    """
    if method not in METHODS:
        raise UsageError(f"there is no averaging method {method!r}; accepted: {', '.join(METHODS)}")
    if method == "experts" and (checkpoints or score or labels):
        raise UsageError(
            "the experts are inside one model: --method experts takes no checkpoints and no score"
        )
    check_replaceable(Path(out))
    calls = tuple(tuple(b) if isinstance(b, tuple | list) else (b,) for b in batches)
    if labels is not None:
        score = accuracy(calls, labels)
    progress("load")
    loaded = load_model(model, inputs)
    draft = (
        _experts(loaded, calls, progress)
        if method == "experts"
        else make_soup(loaded, checkpoints, method == "greedy", calls, score, progress)
    )
    progress("write")
    return write_average(draft, Path(out))


def accuracy(batches: Batches, labels: Sequence[torch.Tensor]) -> Score:
    """Return the score of a classifier: the share of samples whose largest logit is the label's."""
    if len(labels) != len(batches):
        raise UsageError(f"{len(batches)} batches need as many labels, got {len(labels)}")

    def score(module: nn.Module) -> float:
        hits = [module(*b).argmax(1).eq(own) for b, own in zip(batches, labels, strict=True)]
        return float(torch.cat(hits).double().mean())

    return score


def load_score(spec: str) -> Score:
    """Load `data.py:score`, a callable that takes the module; raises UsageError where it is none."""
    where, _, attribute = spec.rpartition(":")
    if not where or not attribute:
        raise UsageError(f"--score {spec!r} names no attribute: write data.py:score")
    found = find_attribute(spec, where, attribute)
    if not callable(found):
        raise UsageError(f"{spec} is a {type(found).__name__}; a score is a callable that takes the module")
    return _guarded_score(spec, found)


def _guarded_score(spec: str, found: Callable[[nn.Module], Any]) -> Score:
    return lambda module: guarded(spec, lambda: found(module))


def _experts(loaded: LoadedModel, batches: Batches, progress: Progress) -> Draft:
    """Return the model with its experts averaged, measured against routed draws."""
    progress("import")
    graph = import_stochastic(loaded.source, loaded.args, loaded.kwargs)
    for name, run in PIPELINE:
        progress(name)
        graph = run(graph)
        verify(graph)
    progress("experts")
    samples = [sample for batch in flat_batches(batches) for sample in split(graph, batch)]
    made = average_experts(graph, samples)
    progress("export")
    program = export_graph(made.graph)
    program.example_inputs = (loaded.args, dict(loaded.kwargs))
    flat = tensors(loaded.args, loaded.kwargs)
    return Draft(
        program,
        (loaded.args, loaded.kwargs),
        evaluate(made.graph, flat, torch.float64),
        evaluate(made.graph, flat),
        _experts_document(loaded.spec, made, samples, graph),
    )


def _experts_document(spec: str, made: AveragedExperts, samples: Batches, graph: Graph) -> dict[str, Any]:
    whole = deviation_document(
        "the routed model", made.deviation, kl_nats(made.routed, made.found), draws=made.draws
    )
    between = deviation_document("the routed model's own first draw", made.between_draws, None)
    return {
        "model": spec,
        "method": "experts",
        "exactness": made.exactness.value,
        "experts": [plain(group) for group in made.groups],
        "batch_norm": batch_norm_document(made.batch_norms, samples),
        "deviation": [whole],
        "between_draws": [between],
        "operations": {"before": len(graph.ops()), "after": len(made.graph.ops())},
        "warnings": _experts_warnings(made, samples),
    }


def _experts_warnings(made: AveragedExperts, samples: Batches) -> list[str]:
    apart = [
        f"the {g.experts} experts at {g.site or g.exit!r} lie {g.spread:.2g} of their size apart: training "
        "has not pulled them together, and their mean is far from each"
        for g in made.groups
        if g.spread > WIDE_SPREAD
    ]
    return [*apart, *noisy_statistics(made.batch_norms, samples)]
