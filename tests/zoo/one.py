"""One model through every target, in a process of its own: SPEC DOCUMENT TARGET...

The document is written anew after each step, so that a crash or a cut loses one step alone.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from compiler.cost.roofline import PRIOR, Roofline
from compiler.errors import EdgewrightError, NumericError
from compiler.evaluate import evaluate
from compiler.export import export_graph, fold_inputs
from compiler.plan import Plan
from edgewright.compilation import build
from edgewright.models import load_model
from edgewright.models.loaded import call_flat, tensors
from edgewright.recipe import Recipe, resolve
from edgewright.stages import Prepared, canonicalise, merged
from tests import quicker

SEED = 3


def main() -> None:
    """Run the steps that the document does not hold yet."""
    spec, path, *targets = sys.argv[1:]
    document = Path(path)
    found: dict[str, Any] = json.loads(document.read_text()) if document.exists() else {"model": spec}
    warnings.simplefilter("ignore")
    quicker.install()
    gc.set_threshold(50_000, 20, 50)  # graphs hold many objects and few rings of them
    torch.set_num_threads(1)

    @cache
    def source() -> Prepared:
        return canonicalise(load_model(spec, None, randomize=SEED))

    @cache
    def prepared(prior: Roofline) -> Prepared:
        return merged(source(), prior=prior)

    def step(name: str, run: Callable[[], dict[str, Any]]) -> None:
        if name not in found:
            found[name] = outcome(run)
            document.write_text(json.dumps(found, indent=1) + "\n")

    step("imported", lambda: agreement(prepared(PRIOR)))
    for target in targets if found["imported"]["outcome"] == "verified" else ():
        step(target, lambda target=target: lowered(prepared, target))  # type: ignore[misc]


def outcome(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a step found with its seconds; what it raised is an outcome."""
    start = time.perf_counter()
    try:
        found = {"outcome": "verified", **run()}
    except NumericError as error:
        found = {"outcome": "differs", "reason": _said(error)}
    except EdgewrightError as error:
        found = {"outcome": "refused", "reason": _said(error)}
    except Exception as error:  # whatever is raised is a failure to be counted
        found = {"outcome": "failed", "reason": f"{type(error).__name__}: {_said(error)}"}
    return found | {"seconds": round(time.perf_counter() - start, 1)}


def _said(error: Exception) -> str:
    """Return what was said, files named from the checkout."""
    return str(error).replace(f"{Path(__file__).parents[2]}/", "")


def agreement(prepared: Prepared) -> dict[str, Any]:
    """Return how far the merged graph is from the model in float64; it is exported again and must be equal."""
    model, graph = prepared.model, prepared.graph
    flat = tensors(model.args, model.kwargs)
    again = call_flat(export_graph(graph).module(), *fold_inputs(graph, flat))
    for ours, theirs in zip(evaluate(graph, flat), again, strict=True):
        if isinstance(ours, torch.Tensor) and not torch.equal(ours.nan_to_num(), theirs.nan_to_num()):
            raise NumericError("the re-exported program computes something else than the graph")
    first, last = prepared.stages[0].graph, graph
    double = [evaluate(g, flat, torch.float64) for g in (first, last)]
    pairs = [(a, b) for a, b in zip(*double, strict=True) if isinstance(a, torch.Tensor)]
    errors = [
        float((a - b).abs().max() / a.abs().max().clamp(min=1e-30)) for a, b in pairs if a.is_floating_point()
    ]
    return {
        "merge_error": max(errors, default=0.0),
        "operations": [len(list(g.ops())) for g in (first, last)],
    }


def lowered(prepared: Callable[[Roofline], Prepared], target: str) -> dict[str, Any]:
    """Return the report of a verified artifact, merged as `compile` for the target merges."""
    recipe = Recipe(*resolve("host", target), Plan(()), (), None, None)
    with tempfile.TemporaryDirectory() as folder:
        manifest: Any = build([prepared(recipe.prior)], recipe, Path(folder) / "out").manifest
    report = manifest["lowering"]
    return {
        "max_relative_error": manifest["verification"]["max_relative_error"],
        "min_snr_db": manifest["verification"]["min_snr_db"],
        "delegates": report["delegates"],
        "outside_ops": report["outside_ops"],
        "importer": report.get("importer"),
    }


if __name__ == "__main__":
    main()
