"""Model in, verified artifact folder out.

load -> import -> passes -> merge -> compress(plan) -> place weights -> lower -> compare -> put in place

A program has one method, `forward`, or one for each token count asked for, `forward_t1` and
`forward_t128`, say: all steps up to `lower` are taken for each, in which the merge engine takes the
cheaper form of each site at that count. They are lowered into one program, and each is verified at
its own size.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from compiler.cost.latency_table import LatencyTable
from compiler.device import DeviceProfile
from compiler.errors import FallbackError, UsageError
from compiler.ir.digest import content_digest
from compiler.ir.graph import Graph, TensorType
from compiler.ir.text import print_graph
from compiler.plan import Plan
from compiler.records import Artifact
from compiler.target import FORWARD, Lowered, Target
from devices.database import MeasurementDatabase
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
from edgewright.choosing import AUTO, choose
from edgewright.compression import compress
from edgewright.expected_latency import expected_latency
from edgewright.explanation import operation_counts, placement_documents
from edgewright.models import load_model
from edgewright.models.loaded import FrozenInputs
from edgewright.models.tokens import load_methods
from edgewright.ranking import rank_only
from edgewright.recipe import Recipe, read_plan, resolve
from edgewright.stages import (
    Method,
    Prepared,
    Progress,
    canonicalise,
    merged,
    place_weights,
    prepare,
    silent,
)
from edgewright.token_methods import OversizeError, build_within
from edgewright.verification import Comparison
from profiles import load_profile

SHORT = 16  # elements of a frozen input that the manifest holds


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
    freeze: Mapping[str, Any] | None = None,
    argmax_only: bool = False,
    max_fallback: int | None = None,
    tokens: Sequence[int] = (),
    max_bytes: int | None = None,
    donor: str | torch.nn.Module | None = None,
    table: LatencyTable | Callable[[str], LatencyTable | None] | None = None,
    equip: Callable[[Target], Target] | None = None,
    device: str = "local",
    database: str | Path | MeasurementDatabase = "sqlite://",
    wait_s: float | None = None,
    progress: Progress = silent,
) -> Artifact:
    """Compile a model for a device and verify the result in the target's own runtime.

    Args:
        model: a module in eval mode, an exported program, or a text such as `timm:mobileone_s0`.
        profile: the name of a device profile, its TOML file, or a profile.
        target: the runtime; the profile's first one by default. With `auto` all of the profile's are
            built, verified and measured interleaved, and the fastest is kept; the manifest's `compared`
            holds the table of all.
        plan: the lossy decisions to replay: a plan, or the path of one.
        inputs: example inputs (a tensor, a tuple, a dict) or a list of `InputSpec`.
        out: the folder to write; an artifact that stands there is replaced.
        calibration: batches for the decisions of the plan that need data.
        randomize: a seed for weights that make merging non-trivial (`edgewright.models.randomize`).
        dynamic_batch: leave the first dimension of every input open.
        freeze: inputs that never change, by name; the program takes the others only.
        argmax_only: outputs have to rank as the model's do along their last axis, and no more.
        max_fallback: the most operations of a method that may stay outside the runtime's delegate.
        tokens: token counts, one method of the program for each; see `edgewright.models.tokens` for
            the axis they size.
        max_bytes: the most bytes the runtime's files may take; merges to larger forms are taken back,
            those first that save the least time per byte.
        donor: the second model of the family that the plan stitches in.
        table: measured kernel latencies that the merges are priced by (`edgewright.latency.load_table`),
            or what gives those of a target; the roofline prior without.
        equip: what gives a target the schedules it was tuned to (`edgewright.tuning.load_schedules`).
        device: where `auto` measures.
        database: where `auto` keeps its raw samples; `sqlite://` keeps nothing.
        wait_s: how long `auto` waits for a device that is in use; as long as it takes by default.
        progress: called with the name of each step.

    Raises:
        UsageError: something given cannot be read, or `out` cannot be written.
        UnsupportedModelError: the model cannot be exported or lowered.
        NumericError: the program does not compute what the model computes.
        FallbackError: more operations than `max_fallback` stay outside the delegate.
        InfeasibleBudgetError: the smallest form takes more than `max_bytes`; names its size.
        DeviceError: the device that `auto` measures on is missing, lost or in use.
    """
    chosen = load_profile(profile) if isinstance(profile, str) else profile
    decisions = read_plan(plan)
    if target != AUTO:
        resolve(chosen, target)
    check_replaceable(Path(out))
    if tokens and decisions.decisions:
        raise UsageError("a plan's calibration batches have one size: give --tokens or --plan, not both")
    progress("load")
    loaded = load_methods(
        model, inputs, tokens, randomize=randomize, dynamic_batch=dynamic_batch, freeze=freeze
    )
    other = None if donor is None else prepare(load_model(donor, inputs), progress).graph
    sources = [canonicalise(m, name, progress) for name, m in loaded.items()]
    if argmax_only:
        sources = [rank_only(source) for source in sources]

    def attempt(name: str | None, folder: Path) -> Artifact:
        found, _ = resolve(chosen, name)
        prices = table(found.name) if callable(table) else table
        equipped = equip(found) if equip else found
        recipe = Recipe(equipped, chosen, decisions, calibration, max_fallback, max_bytes, prices, other)
        return build_within(
            sources,
            max_bytes,
            lambda source, keep: merged(source, prices, keep, progress, recipe.prior),
            lambda fitted: build(fitted.methods, recipe, folder, progress, fitted.kept),
        )

    if target == AUTO:
        return choose(attempt, chosen, Path(out), device, database, wait_s, progress)
    return attempt(target, Path(out))


def build(
    prepared: Sequence[Prepared],
    recipe: Recipe,
    out: Path,
    progress: Progress = silent,
    kept: Collection[str] = (),
) -> Artifact:
    """Compress, place, lower and verify prepared methods into an artifact folder at `out`.

    `kept` names the sites that the bound on bytes left factored.
    """
    compressed = [Method(p, compress(p, recipe, progress)) for p in prepared]
    methods = [place_weights(m, recipe.target.folds_at_load) for m in compressed]
    return assemble(methods, recipe, out, progress, kept=kept)


def assemble(
    methods: Sequence[Method],
    recipe: Recipe,
    out: Path,
    progress: Progress = silent,
    lower: Callable[[Mapping[str, Graph], DeviceProfile, Path], Lowered] | None = None,
    kept: Collection[str] = (),
) -> Artifact:
    """Lower and verify compressed methods into an artifact folder at `out`.

    `lower` writes the runtime's files, the recipe's target by default; a search hands over the
    files it has measured.
    """
    with building(out) as folder:
        progress(f"lower: {recipe.target.name}")
        start = time.perf_counter()
        graphs = {m.name: m.graph for m in methods}
        lowered = (lower or recipe.target.lower)(graphs, recipe.profile, folder)
        seconds = time.perf_counter() - start
        _check_fallback(lowered, recipe.max_fallback)
        manifest = _manifest(methods, recipe, lowered, folder) | {"kept_factored": sorted(kept)}
        _check_size(manifest["sizes_bytes"], recipe.max_bytes)
        progress("verify")
        start = time.perf_counter()
        comparisons = verify_artifact(Artifact(folder, manifest), recipe.target, recipe.profile, methods)
        manifest["verification"] = _verification(recipe.target, comparisons)
        manifest["seconds"] = _stage_seconds(methods) | {
            "lower": round(seconds, 3),
            "verify": round(time.perf_counter() - start, 3),
        }
        _write_documents(folder, methods, recipe, manifest)
    return Artifact(out, manifest)


def _stage_seconds(methods: Sequence[Method]) -> dict[str, float]:
    """Return the seconds of each stage, over all methods."""
    total: dict[str, float] = {}
    for stage in (s for m in methods for s in m.stages):
        total[stage.name] = total.get(stage.name, 0.0) + stage.seconds
    return {name: round(seconds, 3) for name, seconds in total.items()}


def _check_size(sizes: Mapping[str, int], limit: int | None) -> None:
    if limit is not None and sum(sizes.values()) > limit:
        raise OversizeError(sum(sizes.values()), limit)


def _check_fallback(lowered: Lowered, limit: int | None) -> None:
    outside = fallback_count(lowered.report)
    if limit is not None and outside > limit:
        raise FallbackError(
            f"{outside} operations stay outside the delegate, {limit} are allowed: {outside_text(lowered)}"
        )


def fallback_count(report: Mapping[str, Any]) -> int:
    """Return how many operations stay outside the delegate, in the method that has the most."""
    counts: Counter[str] = Counter()
    for entry in report.get("outside", ()):
        counts[entry.get("method", FORWARD)] += int(entry["count"])
    return max(counts.values(), default=0)


def outside_text(lowered: Lowered) -> str:
    """Return the operations outside the delegate with their counts."""
    entries: Any = lowered.report.get("outside", ())
    return ", ".join(f"{entry['op']} x{entry['count']}" for entry in entries)


def _manifest(methods: Sequence[Method], recipe: Recipe, lowered: Lowered, folder: Path) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "model": methods[0].prepared.model.spec,
        "frozen": _frozen(methods[0].prepared.model.frozen),
        "target": recipe.target.name,
        "profile": recipe.profile.name,
        "files": list(lowered.files),
        "methods": [_method(m, recipe.table) for m in methods],
        "plan_digest": recipe.plan.digest(),
        "plan": recipe.plan.text(),
        "profile_digest": recipe.profile.digest(),
        "artifact_digest": files_digest(folder, lowered.files),
        "versions": dict(recipe.target.versions()),
        "sizes_bytes": {name: (folder / name).stat().st_size for name in lowered.files},
        "max_bytes": recipe.max_bytes,
        "lowering": dict(lowered.report),
    }


def _method(method: Method, table: LatencyTable | None) -> dict[str, Any]:
    graph = method.graph
    return {
        "name": method.name,
        "inputs": [_spec(n.name, n.type) for n in graph.inputs()],
        "outputs": [_spec(v.node, graph.type_of(v)) for _, v in graph.output.values()],
        "graph_digest": content_digest(graph),
        "merges": count_outcomes(method.prepared.attempts),
        "placements": placement_documents(method.placements),
        "operations": operation_counts(method.stages[0].graph, graph),
        "expected_latency": expected_latency(graph, table),
    }


def _frozen(inputs: FrozenInputs | None) -> list[dict[str, Any]]:
    """Return the inputs that are constants of the program, by name; the value where it is short."""
    if inputs is None:
        return []
    return [
        {
            **_spec(name, TensorType(tuple(value.shape), value.dtype)),
            "value": value.tolist() if value.numel() <= SHORT else None,
        }
        for name, value in inputs.by_name().items()
    ]


def _spec(name: str, type_: TensorType) -> dict[str, Any]:
    shape = [d if isinstance(d, int) else str(d) for d in type_.shape]
    return {"name": name, "shape": shape, "dtype": str(type_.dtype).removeprefix("torch.")}


def _verification(target: Target, by_method: Mapping[str, Sequence[Comparison]]) -> dict[str, Any]:
    comparisons = [c for found in by_method.values() for c in found]
    judged = [c for c in comparisons if c.tolerance is not None]
    return {
        "runtime": target.name,
        "passed": all(c.passed for c in judged),
        "max_abs_error": max((c.max_abs_error for c in comparisons), default=0.0),
        "max_relative_error": max((c.relative_error for c in comparisons), default=0.0),
        "min_snr_db": min((c.snr_db for c in comparisons if c.snr_db is not None), default=None),
        "comparisons": [{"method": m, **c.document()} for m, found in by_method.items() for c in found],
    }


def _write_documents(
    folder: Path, methods: Sequence[Method], recipe: Recipe, manifest: Mapping[str, Any]
) -> None:
    for method in methods:
        write_text(folder / f"graph_{method.name}.txt", print_graph(method.graph))
    write_text(folder / "plan.txt", recipe.plan.text())
    attempts = [d for m in methods for d in attempt_documents(m.prepared.attempts, m.name)]
    write_json(folder / "attempts.json", attempts)
    write_json(folder / MANIFEST, manifest)
