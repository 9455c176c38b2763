"""What merged, what was refused and why, and what it bought."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compiler.errors import UsageError
from compiler.ir.graph import Graph
from compiler.passes.placement import Placement
from edgewright.artifact import read_artifact
from edgewright.attempts import attempt_documents, gained_macs
from edgewright.models import load_model
from edgewright.ranking import rank_only
from edgewright.stages import Method, Progress, canonicalise, merged, place_weights, silent

SCHEMA = "edgewright.explanation/1"


def explain(
    model: Any,
    inputs: Any = None,
    *,
    randomize: int | None = None,
    freeze: Mapping[str, Any] | None = None,
    argmax_only: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Return the merge engine's account of a model, or of an artifact folder, as JSON values.

    `attempts` lists each region with its outcome, reason, the node to blame and its costs in
    multiply-accumulates of the roofline prior. `operations` counts operations before and after, and
    `placements` says where each cone of operations on weights alone is computed, by method; for a model,
    which has no runtime yet, all are built.

    Raises UsageError for what is neither a model nor an artifact folder, and
    UnsupportedModelError for a model that cannot be imported.
    """
    if isinstance(model, str | Path) and Path(model).is_dir():
        return _of_artifact(Path(model))
    name = str(model) if isinstance(model, Path) else model
    loaded = load_model(name, inputs, randomize=randomize, freeze=freeze)
    source = canonicalise(loaded, progress=progress)
    prepared = merged(rank_only(source) if argmax_only else source, progress=progress)
    before, after = prepared.stages[0].graph, prepared.graph
    method = place_weights(Method(prepared), folds_at_load=False)
    return {
        **_document(loaded.spec, attempt_documents(prepared.attempts, prepared.method)),
        "operations": {prepared.method: operation_counts(before, after)},
        "placements": {prepared.method: placement_documents(method.placements)},
    }


def operation_counts(before: Graph, after: Graph) -> dict[str, dict[str, int]]:
    """Return, for each operation of either graph, how often it occurs before and after."""
    first, last = before.histogram(), after.histogram()
    names = sorted({*first, *last}, key=lambda op: (-first.get(op, 0), op))
    return {op: {"before": first.get(op, 0), "after": last.get(op, 0)} for op in names}


def placement_documents(placements: Sequence[Placement]) -> list[dict[str, Any]]:
    """Return where weight-only cones are computed as JSON values."""
    return [{**asdict(p), "place": p.place.value} for p in placements]


def _of_artifact(folder: Path) -> dict[str, Any]:
    artifact = read_artifact(folder)
    path = artifact.folder / "attempts.json"
    try:
        attempts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}; compile it again") from error
    document = _document(str(artifact.manifest["model"]), attempts)
    methods: Any = artifact.manifest["methods"]
    return {
        **document,
        "operations": {m["name"]: m["operations"] for m in methods},
        "placements": {m["name"]: m["placements"] for m in methods},
        "lowering": artifact.manifest["lowering"],
    }


def _document(model: str, attempts: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "model": model,
        "attempts": attempts,
        "gained_macs_by_prior": gained_macs(attempts),
    }
