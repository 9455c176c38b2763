"""Verify a built artifact against the original model, and place the blame where it fails."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from compiler.compress.half import half_nodes
from compiler.compress.quantize_dynamic import unwritten_nodes
from compiler.device import DeviceProfile
from compiler.errors import NumericError
from compiler.evaluate import evaluate
from compiler.ir.dims import example_sizes, resolve
from compiler.ir.graph import Graph
from compiler.records import Artifact
from compiler.target import Target
from edgewright.models import LoadedModel
from edgewright.models.inputs import redraw, reshape
from edgewright.models.loaded import tensors
from edgewright.ranking import judge_rankings, report_rankings
from edgewright.runtime import infer
from edgewright.stages import Method, Stage, first_difference
from edgewright.verification import Comparison, judge_lossy, report

SEEDS = (1, 2)


@dataclass(frozen=True)
class Case:
    """One set of inputs with what the original model makes of it, in float64 and in its own precision."""

    name: str
    call: tuple[torch.Tensor, ...]
    double: list[Any]
    single: list[Any]
    reference: str


def make_cases(model: LoadedModel, imported: Graph) -> list[Case]:
    """Return the example call, seeded ones and, where sizes are open, one of other sizes, with references."""
    example = (model.args, dict(model.kwargs))
    calls = [("example", example)]
    calls += [(f"seed {seed}", redraw(example, seed)) for seed in SEEDS]
    if imported.symbols:
        sizes = other_sizes(imported)
        shapes = [[int(resolve(d, sizes)) for d in node.type.shape] for node in imported.inputs()]
        name = ", ".join(f"{symbol} = {size}" for symbol, size in sizes.items())
        calls.append((name, reshape(example, shapes, len(SEEDS) + 1)))
    return [_case(model, imported, name, call) for name, call in calls]


def other_sizes(graph: Graph) -> dict[str, int]:
    """Return for each size that is open one that the example call has not: the least, or a larger one."""
    sizes = example_sizes(graph)
    for name, (low, high, _) in graph.symbols.items():
        larger = 2 * sizes[name] + 1
        sizes[name] = low if low < sizes[name] else larger if high is None else min(larger, high)
    return sizes


def _case(model: LoadedModel, imported: Graph, name: str, call: tuple[Any, Any]) -> Case:
    flat = tuple(tensors(*call))
    single = model.call(*call)
    double, reference = _reference(model, imported, call, flat)
    return Case(name, flat, double, single, reference)


def _reference(
    model: LoadedModel, imported: Graph, call: tuple[Any, Any], flat: Sequence[torch.Tensor]
) -> tuple[list[Any], str]:
    """Return the float64 result; a model that fixes float32 inside is widened as a graph instead."""
    if isinstance(model.source, torch.nn.Module):
        try:
            return model.call_double(*call), "original model in float64"
        except RuntimeError:
            pass  # torch refuses mixed dtypes: the model names float32 in its own code
    return evaluate(imported, flat, torch.float64), "imported graph in float64"


def verify_artifact(
    artifact: Artifact, target: Target, profile: DeviceProfile, methods: Sequence[Method]
) -> dict[str, list[Comparison]]:
    """Run each method of an artifact at its own size and compare; returns all comparisons by method.

    Raises NumericError naming the method and the first stage whose results differ from the original
    model's.
    """
    return {m.name: _verify_method(artifact, target, profile, m) for m in methods}


def _verify_method(
    artifact: Artifact, target: Target, profile: DeviceProfile, method: Method
) -> list[Comparison]:
    cases = make_cases(method.prepared.model, method.stages[0].graph)
    stateful = bool(method.prepared.graph.writes())
    calls = [case.call for case in cases]
    outputs = infer(artifact, target, profile, calls, fresh=stateful, method=method.name)
    comparisons: list[Comparison] = []
    for case, found in zip(cases, outputs, strict=True):
        compressed, ranked = method.compressed, method.prepared.ranked
        if compressed is None:
            judged = judge_case(case, found, ranked)
        else:
            judged = _judge_compressed(case, found, compressed, ranked)
        if not all(c.passed for c in judged):
            raise _failure(case, judged, method, target)
        comparisons += judged
    return comparisons


def judge_case(case: Case, found: Sequence[Any], ranked: Collection[int] = ()) -> list[Comparison]:
    """Judge exact results of one case; a result missing or too much is a mismatch as well.

    Of the outputs that `ranked` counts only the order is judged.
    """
    expected, got = _tensors(case.double), _tensors(found)
    if len(got) != len(expected):
        raise NumericError(f"the program returns {len(got)} tensors, the original model {len(expected)}")
    return judge_rankings(case.name, got, expected, _tensors(case.single), ranked, case.reference)


def _judge_compressed(
    case: Case, found: Sequence[Any], compressed: Stage, ranked: Collection[int]
) -> list[Comparison]:
    emulated = evaluate(compressed.graph, case.call)
    far = [c for c in report(case.name, found, case.double) if c.output not in ranked]
    orders = report_rankings(case.name, _tensors(found), _tensors(case.double), ranked)
    dynamic, half = (bool(f(compressed.graph)) for f in (unwritten_nodes, half_nodes))
    return [*judge_lossy(case.name, found, emulated, case.single, dynamic, half), *far, *orders]


def _tensors(results: Sequence[Any]) -> list[torch.Tensor]:
    return [x for x in results if isinstance(x, torch.Tensor)]


def _failure(case: Case, judged: list[Comparison], method: Method, target: Target) -> NumericError:
    def same(results: list[Any]) -> bool:
        return all(c.passed for c in judge_case(case, results, method.prepared.ranked))

    worst = max((c for c in judged if not c.passed), key=lambda c: c.max_abs_error)
    stage = first_difference(method.prepared.stages, case.call, same) or f"lower:{target.name}"
    own = "" if worst.own_error is None else f"; the reference's own float error is {worst.own_error:.3g}"
    where = f"output {worst.output} of {method.prepared.model.spec}, method {method.name},"
    return NumericError(
        f"{where} differs on inputs {case.name!r} by "
        f"{worst.max_abs_error:.3g} where {worst.tolerance:.3g} is allowed (against the {worst.reference}"
        f"{own}). The results first differ at stage {stage!r}. No artifact was written."
    )
