"""Calibration samples chosen from a larger pool before a search cuts them in halves.

    read_calibration -> selected(batches, graph, method, count, seed) -> halve(graph, chosen.batches, seed)

The pool is cut into calls of the graph's own batch, single samples where its batch is free. The model
answers each once, and one of the ways in `compiler.search.selection` takes its pick; a call of a fixed
batch of several samples is taken or left as a whole, by the mean of what is known of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compiler.errors import UsageError
from compiler.evaluate import evaluate
from compiler.ir.graph import Graph
from compiler.search.agreement import range_advice, range_gaps, value_ranges
from compiler.search.calibration_selection import Answer, Call, Inputs, select, way
from compiler.search.features import feature_rows, with_features
from compiler.search.output_cost import floating
from edgewright.search_samples import ENOUGH, Halves, Sample, calls_of, rows

Told = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True)
class Selected:
    """What was chosen: `batches` for `halve`, their places among the pool's calls, and counts of samples."""

    batches: tuple[Sample, ...]
    places: tuple[int, ...]
    samples: int
    pool: int
    method: str

    @property
    def advice(self) -> str | None:
        """What to tell the user about the choice, None where there is nothing to say."""
        if self.samples < self.pool:
            return None
        return (
            f"all {self.pool} calibration samples were taken: a selection by {self.method} needs a pool "
            f"larger than what it takes; select at least {ENOUGH} samples, better 500, out of more"
        )


@torch.no_grad()
def selected(
    batches: Sequence[tuple[Any, ...]],
    graph: Graph,
    method: str,
    count: int,
    seed: int = 0,
    labels: Sequence[int] | torch.Tensor | None = None,
    tell: Told = lambda done, total: None,
) -> Selected:
    """Return `count` samples of a pool of batches, chosen by a method; all where the pool holds no more.

    Args:
        batches: the pool, each the model's arguments of one call or of several.
        graph: the merged float graph.
        method: a name from `compiler.search.calibration_selection.ways`.
        count: samples wanted, 2 at least; a multiple of the graph's own batch is met exactly.
        seed: decides the draws.
        labels: one class for each sample of the pool, in order; only `el2n` looks at them.
        tell: called with (calls done, calls in all) where the model has to answer them.

    Raises UsageError for an unknown method, batches that do not fit the graph, labels of another number,
    and what the method cannot be used on.
    """
    chosen = way(method)
    calls = [call for i, batch in enumerate(batches) for call in single_calls(graph, batch, i)]
    sizes = [rows(call) for call in calls]
    known = _labels(labels, sizes)
    wanted = count if count < 2 else max(2, count // max(sizes, default=1))
    if 2 <= wanted < len(calls):
        facts = chosen.observe(_answered(with_features(graph), calls, sizes, known, tell))
        places = select(_by_call(facts, sizes), wanted, method, seed)
    else:
        places = select(np.zeros(len(calls)), wanted, method, seed)
    picked = tuple(int(p) for p in places)
    samples = sum(sizes[p] for p in picked)
    return Selected(tuple(calls[p] for p in picked), picked, samples, sum(sizes), method)


def single_calls(graph: Graph, batch: tuple[Any, ...], index: int = 0) -> Iterator[Sample]:
    """Yield the calls in a batch: of the graph's own batch size, of one sample where that is free."""
    for call in calls_of(graph, batch, index):
        free = all(n.type.rank and not isinstance(n.type.shape[0], int) for n in graph.inputs())
        if free and rows(call) > 1:
            yield from zip(*(torch.split(t, 1) for t in call), strict=True)
        else:
            yield call


def halves_advice(graph: Graph, halves: Halves) -> str | None:
    """Return what to tell the user where the ranges of the two halves differ by more than a fifth."""
    first, second = (value_ranges(graph, half) for half in (halves.seen, halves.unseen))
    return range_advice(range_gaps(first, second), len(first))


def _answered(
    graph: Graph, calls: Sequence[Sample], sizes: Sequence[int], labels: NDArray[np.int64] | None, tell: Told
) -> Iterator[Call]:
    """Yield the calls with the model behind each; `graph` gives its features as the last result."""
    ends = np.cumsum(sizes)
    for index, (call, size) in enumerate(zip(calls, sizes, strict=True)):
        own = None if labels is None else torch.from_numpy(labels[ends[index] - size : ends[index]])
        yield Call(call, size, lambda inputs, n=size: _answer(graph, inputs, n), own)  # type: ignore[misc]  # the default binds the loop's value
        tell(index + 1, len(calls))


def _answer(graph: Graph, inputs: Inputs, samples: int) -> Answer:
    *outputs, features = evaluate(graph, inputs)
    return Answer(floating(outputs), feature_rows(features, samples))


def _by_call(facts: NDArray[np.float64], sizes: Sequence[int]) -> NDArray[np.float64]:
    """Return one row of facts for each call: the mean over its samples."""
    if len(facts) == len(sizes):
        return facts
    parts = np.split(facts, np.cumsum(sizes)[:-1])
    return np.stack([part.mean(0) for part in parts])


def _labels(labels: Sequence[int] | torch.Tensor | None, sizes: Iterable[int]) -> NDArray[np.int64] | None:
    if labels is None:
        return None
    found: NDArray[np.int64] = np.asarray(labels).astype(np.int64).reshape(-1)
    if len(found) != sum(sizes):
        raise UsageError(
            f"the calibration pool holds {sum(sizes)} samples and there are {len(found)} labels: give one "
            f"class for each sample"
        )
    return found
