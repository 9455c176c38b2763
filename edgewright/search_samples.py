"""Calibration batches as samples: checked against the model, shuffled by a seed, cut in two halves.

Half A sets the int8 ranges and the costs that the search works with. Half B is cut in two: its first part
confirms what repairs and healing made of a plan, its last is not looked at until the winner is known, and
gives the cost that is reported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from compiler.compress.quantize import split
from compiler.errors import UsageError
from compiler.ir.graph import Graph
from edgewright.models.batches import load_batches, read_batches
from edgewright.models.loaded import tensors

ENOUGH = 100  # below this many samples the choice of decisions is noticeably worse
MISSING = (
    "a search needs calibration data, without labels: give --calibration data.py:batches, where `batches` "
    "is a list, or a function returning one, of input tensors (or tuples of them); 100 samples or more "
    "are better, and examples/calibration.py shows the form"
)

Sample = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Halves:
    """The samples of both halves, each the flat inputs of one call; `rows` counts single examples in all."""

    seen: tuple[Sample, ...]
    unseen: tuple[Sample, ...]
    rows: int
    digest: str

    @property
    def second(self) -> tuple[Sample, ...]:
        """The first part of half B: what repairs and healing are confirmed by; none of a single sample."""
        return self.unseen[: len(self.unseen) // 2]

    @property
    def last(self) -> tuple[Sample, ...]:
        """The rest of half B, by which the winner is judged and nothing else."""
        return self.unseen[len(self.unseen) // 2 :]

    @property
    def advice(self) -> str | None:
        """What to tell the user about the amount of data, None where it is enough."""
        if self.rows >= ENOUGH:
            return None
        return (
            f"only {self.rows} calibration samples: with fewer than {ENOUGH} the chosen variant is often "
            f"not the best within the budget; give at least {ENOUGH}, better 500"
        )


def read_calibration(calibration: str | Iterable[Any] | None) -> list[tuple[Any, ...]]:
    """Return batches from `data.py:batches` or an iterable.

    Raises UsageError where there are none, one holds no tensor, or an iterable raises midway: the message
    names the batch, and the exception is its cause.
    """
    if calibration is None:
        raise UsageError(MISSING)
    if isinstance(calibration, str):
        return list(load_batches(calibration))
    batches = list(read_batches("the calibration data", calibration))
    if not batches:
        raise UsageError(MISSING)
    return batches


def halve(graph: Graph, batches: Sequence[tuple[Any, ...]], seed: int = 0) -> Halves:
    """Cut batches into the graph's own calls and those into two halves of equal size, give or take one.

    Raises UsageError where a batch does not fit the graph's inputs or holds NaN, naming the batch, and
    where there are fewer than two calls.
    """
    samples = [s for i, batch in enumerate(batches) for s in calls_of(graph, batch, i)]
    if len(samples) < 2:
        raise UsageError(
            f"the calibration data holds {len(samples)} sample; a search needs two at least, one half to "
            f"choose by and one to judge the choice"
        )
    order = np.random.default_rng(seed).permutation(len(samples))
    middle = (len(samples) + 1) // 2
    seen, unseen = (tuple(samples[i] for i in part) for part in (order[:middle], order[middle:]))
    return Halves(seen, unseen, sum(map(rows, samples)), _digest(samples))


def calls_of(graph: Graph, batch: tuple[Any, ...], index: int) -> list[Sample]:
    """Return the graph's own calls in a batch; raises UsageError naming the batch by its `index`."""
    flat = tensors(batch, {})
    try:
        calls = [tuple(call) for call in split(graph, flat)]
    except UsageError as error:
        raise UsageError(f"batch {index} (counted from 0) of the calibration data: {error}") from error
    for node, tensor in zip(graph.inputs(), flat, strict=True):
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            raise UsageError(
                f"batch {index} (counted from 0) of the calibration data holds NaN in the input {node.name!r}"
            )
    return calls


def rows(sample: Sample) -> int:
    """Return the number of examples in a call: the first dimension that all its inputs share, else 1."""
    firsts = {t.shape[0] if t.dim() else None for t in sample}
    only = firsts.pop()
    return only if not firsts and only is not None else 1


def _digest(samples: Sequence[Sample]) -> str:
    total = hashlib.sha256()
    for sample in samples:
        for tensor in sample:
            flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            total.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            total.update(flat.numpy().tobytes())
    return total.hexdigest()[:16]
