"""Model in, verified artifact folder out.

load -> import -> passes -> merge -> compress(plan) -> lower -> run and compare -> put in place
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from compiler.device import DeviceProfile
from compiler.errors import FallbackError
from compiler.ir.digest import content_digest
from compiler.ir.graph import Graph, TensorType
from compiler.ir.text import print_graph
from compiler.plan import Plan
from compiler.records import Artifact
from compiler.target import Lowered, Target
from edgewright.artifact import (
    MANIFEST,
    SCHEMA,
    building,
    check_replaceable,
    files_digest,
    write_json,
    write_text,
)
from edgewright.attempts import attempt_documents, count_outcomes
from edgewright.check import verify_artifact
from edgewright.compression import compress
from edgewright.explanation import operation_counts
from edgewright.models import load_model
from edgewright.recipe import Recipe, read_plan, resolve
from edgewright.stages import Prepared, Progress, Stage, prepare, silent
from edgewright.verification import Comparison


def compile(
    model: str | torch.nn.Module | torch.export.ExportedProgram,
    profile: str | DeviceProfile = "host",
    target: str | None = None,
    plan: str | Path | Plan | None = None,
    inputs: Any = None,
    out: str | Path = "out",
    *,
    calibration: Sequence[tuple[Any, ...]] = (),
    randomize: int | None = None,
    dynamic_batch: bool = False,
    max_fallback: int | None = None,
    progress: Progress = silent,
) -> Artifact:
    """Compile a model for a device and verify the result in the target's own runtime.

    Args:
        model: a module in eval mode, an exported program, or a text such as `timm:mobileone_s0`.
        profile: the name of a device profile, its TOML file, or a profile.
        target: the runtime; the profile's first one by default.
        plan: the lossy decisions to replay: a plan, or the path of one.
        inputs: example inputs (a tensor, a tuple, a dict) or a list of `InputSpec`.
        out: the folder to write; an artifact that stands there is replaced.
        calibration: batches for the decisions of the plan that need data.
        randomize: a seed for weights that make merging non-trivial (`edgewright.models.randomize`).
        dynamic_batch: leave the first dimension of every input open.
        max_fallback: the most operations that may stay outside the runtime's delegate.
        progress: called with the name of each step.

    Raises:
        UsageError: something given cannot be read, or `out` cannot be written.
        UnsupportedModelError: the model cannot be exported or lowered.
        NumericError: the program does not compute what the model computes.
        FallbackError: more operations than `max_fallback` stay outside the delegate.
    """
    recipe = Recipe(*resolve(profile, target), read_plan(plan), calibration, max_fallback)
    check_replaceable(Path(out))
    progress("load")
    loaded = load_model(model, inputs, randomize=randomize, dynamic_batch=dynamic_batch)
    return build(prepare(loaded, progress), recipe, Path(out), progress)


def build(prepared: Prepared, recipe: Recipe, out: Path, progress: Progress = silent) -> Artifact:
    """Compress, lower and verify a prepared model into an artifact folder at `out`."""
    return assemble(prepared, recipe, compress(prepared, recipe, progress), out, progress)


def assemble(
    prepared: Prepared,
    recipe: Recipe,
    compressed: Stage | None,
    out: Path,
    progress: Progress = silent,
    lower: Callable[[Graph, DeviceProfile, Path], Lowered] | None = None,
) -> Artifact:
    """Lower and verify a compressed model into an artifact folder at `out`.

    `lower` writes the runtime's files, the recipe's target by default; a search hands over the
    files it has measured.
    """
    graph = prepared.graph if compressed is None else compressed.graph
    with building(out) as folder:
        progress(f"lower: {recipe.target.name}")
        start = time.perf_counter()
        lowered = (lower or recipe.target.lower)(graph, recipe.profile, folder)
        seconds = time.perf_counter() - start
        _check_fallback(lowered, recipe.max_fallback)
        manifest = _manifest(prepared, recipe, graph, lowered, folder)
        progress("verify")
        start = time.perf_counter()
        comparisons = verify_artifact(
            Artifact(folder, manifest), recipe.target, recipe.profile, prepared, compressed
        )
        manifest["verification"] = _verification(recipe.target, comparisons)
        stages = [*prepared.stages, *([compressed] if compressed else [])]
        manifest["seconds"] = {s.name: round(s.seconds, 3) for s in stages} | {
            "lower": round(seconds, 3),
            "verify": round(time.perf_counter() - start, 3),
        }
        _write_documents(folder, prepared, recipe, graph, manifest)
    return Artifact(out, manifest)


def _check_fallback(lowered: Lowered, limit: int | None) -> None:
    outside = fallback_count(lowered.report)
    if limit is not None and outside > limit:
        raise FallbackError(
            f"{outside} operations stay outside the delegate, {limit} are allowed: {outside_text(lowered)}"
        )


def fallback_count(report: Mapping[str, Any]) -> int:
    """Return how many operations a target's report says stay outside its delegate."""
    return sum(int(entry["count"]) for entry in report.get("outside", ()))


def outside_text(lowered: Lowered) -> str:
    """Return the operations outside the delegate with their counts."""
    entries: Any = lowered.report.get("outside", ())
    return ", ".join(f"{entry['op']} x{entry['count']}" for entry in entries)


def _manifest(
    prepared: Prepared, recipe: Recipe, graph: Graph, lowered: Lowered, folder: Path
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "model": prepared.model.spec,
        "target": recipe.target.name,
        "profile": recipe.profile.name,
        "files": list(lowered.files),
        "inputs": [_spec(n.name, n.type) for n in graph.inputs()],
        "outputs": [_spec(v.node, graph.type_of(v)) for _, v in graph.output.values()],
        "graph_digest": content_digest(graph),
        "plan_digest": recipe.plan.digest(),
        "plan": recipe.plan.text(),
        "profile_digest": recipe.profile.digest(),
        "artifact_digest": files_digest(folder, lowered.files),
        "versions": dict(recipe.target.versions()),
        "sizes_bytes": {name: (folder / name).stat().st_size for name in lowered.files},
        "merges": count_outcomes(prepared.attempts),
        "operations": operation_counts(prepared.stages[0].graph, graph),
        "lowering": dict(lowered.report),
    }


def _spec(name: str, type_: TensorType) -> dict[str, Any]:
    shape = [d if isinstance(d, int) else str(d) for d in type_.shape]
    return {"name": name, "shape": shape, "dtype": str(type_.dtype).removeprefix("torch.")}


def _verification(target: Target, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    judged = [c for c in comparisons if c.tolerance is not None]
    return {
        "runtime": target.name,
        "passed": all(c.passed for c in judged),
        "max_abs_error": max((c.max_abs_error for c in comparisons), default=0.0),
        "max_relative_error": max((c.relative_error for c in comparisons), default=0.0),
        "min_snr_db": min((c.snr_db for c in comparisons if c.snr_db is not None), default=None),
        "comparisons": [c.document() for c in comparisons],
    }


def _write_documents(
    folder: Path, prepared: Prepared, recipe: Recipe, graph: Graph, manifest: Mapping[str, Any]
) -> None:
    write_text(folder / "graph.txt", print_graph(graph))
    write_text(folder / "plan.txt", recipe.plan.text())
    write_json(folder / "attempts.json", attempt_documents(prepared.attempts))
    write_json(folder / MANIFEST, manifest)
