"""The tables of `edgewright average`, made from the same document that `--json` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgewright.cli.output import emit_table, stdout


def average(document: Mapping[str, Any], folder: str) -> None:
    """Show what was averaged, how far that moved the outputs, and what to beware of."""
    if document["method"] == "experts":
        rows = [
            (g["site"] or g["exit"], g["experts"], g["weights"], g["spread"]) for g in document["experts"]
        ]
        emit_table(f"{document['model']}: experts averaged", ("where", "experts", "weights", "spread"), rows)
    else:
        soup = [(i["name"], _kept(i), i["score"], i["soup_score"]) for i in document["ingredients"]]
        title = f"{document['model']}: {document['method']} soup, score {_number(document['score'])}"
        emit_table(title, ("ingredient", "", "its score", "soup's score with it"), soup)
    measures = ("against", "output", "relative RMS", "relative max", "KL, nats")
    emit_table("deviation of the averaged model (lossy)", measures, _deviations(document))
    for line in _lines(document, folder):
        stdout().print(line, highlight=False, markup=False, soft_wrap=True)  # a command in it is to be copied


def _deviations(document: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return [
        (entry["from"], d["output"], d["relative_rms"], d["relative_max"], entry["kl_nats"])
        for entry in [*document["deviation"], *document.get("between_draws", ())]
        for d in entry["outputs"]
    ]


def _lines(document: Mapping[str, Any], folder: str) -> list[str]:
    norms = document["batch_norm"]
    again = (
        f"Gathered again: {len(norms['layers'])} BatchNorms, on {norms['samples']} samples in "
        f"{norms['batches']} batches."
    )
    return [
        *([again] if norms["layers"] else []),
        *(f"Beware: {text}." for text in document["warnings"]),
        f"Written to {folder}; go on with: edgewright compile {folder}/{document['files'][0]}",
    ]


def _kept(ingredient: Mapping[str, Any]) -> str:
    return "kept" if ingredient["kept"] else "left out"


def _number(score: float | None) -> str:
    return "not given" if score is None else f"{score:.4g}"
