"""Labelled batches as the gate of a search, checked against the model and the calibration data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from compiler.compress.quantize import split
from compiler.errors import UsageError
from compiler.ir.graph import Graph
from compiler.search.label_gate import LabelGate
from edgewright.models.batches import load_batches
from edgewright.models.loaded import tensors
from edgewright.search_samples import Halves, Sample, rows

ACCEPTED = "labelled data is batches of (inputs, labels): the model's inputs, then one class for each sample"


def read_labels(graph: Graph, labels: str | Iterable[Any], most_drop: float) -> LabelGate:
    """Return the gate of labelled batches from `data.py:labelled` or an iterable.

    Raises UsageError where a batch has no labels, another number of them than samples, or inputs that
    are not the model's.
    """
    batches = list(load_batches(labels) if isinstance(labels, str) else labels)
    calls: list[Sample] = []
    classes: list[torch.Tensor] = []
    for number, batch in enumerate(batches):
        inputs, given = _parts(batch, number)
        own = [tuple(s) for s in split(graph, tensors(inputs, {}))]
        samples = sum(map(rows, own))
        if given.dim() != 1 or len(given) != samples:
            raise UsageError(
                f"labelled batch {number} holds {samples} samples and {given.numel()} labels (of shape "
                f"{list(given.shape)}); {ACCEPTED}"
            )
        calls += own
        classes.append(given)
    if not calls:
        raise UsageError(f"the labelled data holds no batch; {ACCEPTED}")
    found = torch.cat(classes).to(torch.int64).numpy()
    return LabelGate(tuple(calls), found, most_drop, rows(calls[0]))


def labelled_pool(batches: Iterable[Any]) -> tuple[list[tuple[Any, ...]], torch.Tensor]:
    """Return a pool of (inputs, labels) as batches of inputs, and the labels of all, in order.

    Raises UsageError where a batch has no labels.
    """
    parts = [_parts(batch, number) for number, batch in enumerate(batches)]
    return [inputs for inputs, _ in parts], torch.cat([given.reshape(-1) for _, given in parts])


def check_disjoint(gate: LabelGate, halves: Halves) -> None:
    """Raise UsageError where a labelled sample is a calibration sample too."""
    known = {_digest(s) for s in (*halves.seen, *halves.unseen)}
    both = sum(_digest(call) in known for call in gate.inputs)
    if both:
        raise UsageError(
            f"{both} of the {len(gate.inputs)} labelled calls are calibration samples too: a variant "
            f"chosen on them would look better than it is; give labelled samples of their own"
        )


def _parts(batch: Any, number: int) -> tuple[tuple[Any, ...], torch.Tensor]:
    if not isinstance(batch, tuple | list) or len(batch) < 2 or not isinstance(batch[-1], torch.Tensor):
        raise UsageError(f"labelled batch {number} is a {type(batch).__name__} without labels; {ACCEPTED}")
    return tuple(batch[:-1]), batch[-1]


def _digest(sample: Sequence[torch.Tensor]) -> str:
    total = hashlib.sha256()
    for tensor in sample:
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        total.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode() + flat.numpy().tobytes())
    return total.hexdigest()
