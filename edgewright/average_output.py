"""What an average leaves behind: a program to compile, its weights, and what averaging did.

    model.pt2      the averaged model, as `edgewright compile` takes it
    state_dict.pt  its weights, for `load_state_dict` (soups only; tied weights stay tied)
    average.json   what was averaged and left out, scores, deviations, BatchNorms, warnings
    manifest.json  that the folder is ours, so that another run may replace it

The program is loaded back from its file and run before the folder is put in place.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from compiler.compress.deviation import Deviation, Outputs
from compiler.errors import NumericError
from compiler.search.output_cost import CostKind, sample_costs
from edgewright.artifact import MANIFEST, building, write_json
from edgewright.models.loaded import call_flat
from edgewright.verification import Comparison, judge

SCHEMA = "edgewright.average/1"
PROGRAM, STATE, REPORT = "model.pt2", "state_dict.pt", "average.json"
FEW_BATCHES = 10  # the noise of gathered statistics falls with the root of their number


@dataclass(frozen=True)
class Average:
    """An averaged model on disk: `program` is its file, `report` what `average.json` holds."""

    folder: Path
    report: Mapping[str, Any]

    @property
    def program(self) -> Path:
        """The exported program, as `compile` takes it."""
        return self.folder / PROGRAM


@dataclass(frozen=True)
class Draft:
    """An averaged model before it is written.

    `double` and `single` are its results on its example inputs in float64 and in its own precision;
    `state` is its state dict where it has one; `document` is the report so far.
    """

    program: ExportedProgram
    example: tuple[tuple[Any, ...], Mapping[str, Any]]
    double: Sequence[Any]
    single: Sequence[Any]
    document: Mapping[str, Any]
    state: Mapping[str, torch.Tensor] | None = None


def write_average(draft: Draft, out: Path) -> Average:
    """Write, load back and check a draft; the folder stands complete or not at all.

    Raises UsageError where `out` cannot be written, NumericError where the program that was saved
    does not compute what was averaged.
    """
    files = [PROGRAM, *([STATE] if draft.state is not None else []), REPORT]
    with building(out) as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.export warns of its own archive format
            torch.export.save(draft.program, folder / PROGRAM)
            checked = _checked(draft, folder / PROGRAM)
        if draft.state is not None:
            torch.save(dict(draft.state), folder / STATE)  # safetensors would refuse tied weights
        report = {
            "schema": SCHEMA,
            **draft.document,
            "verification": [c.document() for c in checked],
            "files": files,
        }
        write_json(folder / REPORT, report)
        write_json(folder / MANIFEST, {"schema": SCHEMA, "report": REPORT, "files": files})
    return Average(out, report)


def _checked(draft: Draft, path: Path) -> list[Comparison]:
    args, kwargs = draft.example
    found = call_flat(torch.export.load(path).module(), args, kwargs)
    comparisons = judge("example", found, draft.double, draft.single, "averaged model in float64")
    worst = max((c for c in comparisons if not c.passed), key=lambda c: c.max_abs_error, default=None)
    if worst is not None:
        raise NumericError(
            f"output {worst.output} of the saved program differs from the averaged model by "
            f"{worst.max_abs_error:.3g} where {worst.tolerance:.3g} is allowed. Nothing was written."
        )
    return comparisons


def deviation_document(
    name: str, found: Sequence[Deviation], kl: float | None, **more: object
) -> dict[str, Any]:
    """Return the distance of the average from one model; `kl_nats` is null but for class logits."""
    return {"from": name, "outputs": [plain(d) for d in found], "kl_nats": kl, **more}


def kl_nats(reference: Sequence[Outputs], found: Sequence[Outputs]) -> float | None:
    """Return the mean divergence in nats where the one output looks like class logits, else None."""
    shapes = {(len(call), call[0].dim() if call else 0) for call in reference}
    if shapes != {(1, 2)} or reference[0][0].shape[1] < 2:
        return None
    return float(sample_costs(reference, found, CostKind.KL).mean())


def batch_norm_document(layers: Sequence[str], batches: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Return which statistics were gathered again, and on how much."""
    firsts = [next(part for part in batch if isinstance(part, torch.Tensor)) for batch in batches]
    samples = sum(int(t.shape[0]) if t.dim() else 1 for t in firsts)
    return {"layers": list(layers), "batches": len(batches), "samples": samples}


def noisy_statistics(layers: Sequence[str], batches: Sequence[Any]) -> list[str]:
    """Return a warning where statistics were gathered on few batches."""
    if not layers or len(batches) >= FEW_BATCHES:
        return []
    return [
        f"the statistics of {len(layers)} BatchNorms come from {len(batches)} batches; fewer than "
        f"{FEW_BATCHES} leave them noisy"
    ]


def plain(value: Any) -> dict[str, Any]:
    """Return a frozen value as JSON values; a number that is not finite becomes text."""
    return {
        key: str(part) if isinstance(part, float) and not math.isfinite(part) else part
        for key, part in asdict(value).items()
    }
