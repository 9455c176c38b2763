"""Labelled samples for a search's accuracy gate, `data.py:labelled` or an iterable of pairs.

Each item is a pair of a batch, as calibration takes it, and its labels: one class number for each
sample of the batch. None of the samples may be among those the search chooses by.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from compiler.compress.quantize import split
from compiler.errors import UsageError
from compiler.ir.graph import Graph
from compiler.search.label_gate import LabelGate
from edgewright.models.batches import load_batches, read_batches
from edgewright.models.loaded import tensors
from edgewright.search_samples import Sample, digest, rows


def read_label_gate(graph: Graph, labelled: str | Iterable[Any], most_drop: float) -> LabelGate:
    """Return the gate; raises UsageError where a batch does not fit the graph or its labels do not fit it."""
    calls: list[Sample] = []
    labels: list[int] = []
    items = (
        load_batches(labelled, "--labels")
        if isinstance(labelled, str)
        else read_batches("the labelled data", labelled)
    )
    for index, item in enumerate(items):
        batch, own = _pair(index, item)
        made = [tuple(call) for call in split(graph, tensors(batch, {}))]
        samples = sum(map(rows, made))
        if len(own) != samples:
            raise UsageError(
                f"batch {index} (counted from 0) of the labelled data holds {samples} samples and {len(own)} "
                f"labels; give one class number for each sample"
            )
        calls += made
        labels += own
    sizes = {rows(call) for call in calls}
    if len(sizes) > 1:
        raise UsageError(f"the labelled data holds calls of {sorted(sizes)} samples; give equal batches")
    return LabelGate(tuple(calls), np.array(labels, np.int64), most_drop, *sizes)


def check_apart(gate: LabelGate, samples: Sequence[Sample]) -> None:
    """Raise UsageError where labelled samples are among those a search chooses by."""
    known = {digest([sample]) for sample in samples}
    shared = sum(digest([tuple(call)]) in known for call in gate.inputs)
    if shared:
        raise UsageError(
            f"{shared} of {len(gate.inputs)} labelled samples are calibration samples too: accuracy on what "
            f"a variant was chosen by proves nothing. Give labelled samples of their own"
        )


def _pair(index: int, item: tuple[Any, ...]) -> tuple[tuple[Any, ...], list[int]]:
    if len(item) != 2 or not isinstance(item[1], torch.Tensor | np.ndarray | list | tuple | int):
        raise UsageError(f"item {index} of the labelled data is no pair of a batch and its labels")
    batch, labels = item
    flat = np.atleast_1d(np.asarray(labels))
    if flat.ndim != 1 or not np.issubdtype(flat.dtype, np.integer):
        raise UsageError(
            f"the labels of item {index} of the labelled data are {flat.dtype} of shape {list(flat.shape)}; "
            f"give one class number for each sample"
        )
    return (tuple(batch) if isinstance(batch, tuple | list) else (batch,)), [int(v) for v in flat]
