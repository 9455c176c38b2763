r"""Whether two disjoint sets of calibration samples say the same: their ranges, and their costs.

Where ranges read from one half differ by more than a fifth from those of the other, the set is too
small to set int8 ranges by. A decision whose cost differs between the halves by more than three
standard errors,

    :math:`|c_A - c_B| > 3 \sqrt{s_A^2 + s_B^2},`

is one the calibration data do not agree on: its place in the plan rests on the draw.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from compiler.evaluate import run_node
from compiler.ir.dims import bind
from compiler.ir.graph import Graph
from compiler.search.output_cost import CostEstimate
from compiler.search.shared_evaluation import base_evaluation

Range = tuple[float, float]

RANGE_SHARE = 0.2
STANDARD_ERRORS = 3.0


@dataclass(frozen=True)
class RangeGap:
    """A value whose two ranges differ; `share` is the larger shift of an end over the wider range."""

    node: str
    first: Range
    second: Range
    share: float


@dataclass(frozen=True)
class CostGap:
    """A decision whose two costs differ by so many standard errors of their difference."""

    decision: str
    first: CostEstimate
    second: CostEstimate
    errors: float


@torch.no_grad()
def value_ranges(graph: Graph, samples: Iterable[Sequence[torch.Tensor]]) -> dict[str, Range]:
    """Return the least and the greatest value of each operation's first floating output over all calls."""
    ready, inputs = base_evaluation(graph), graph.inputs()
    found: dict[str, Range] = {}
    for sample in samples:
        bindings = bind([n.type for n in inputs], [t.shape for t in sample])
        values = {**ready.known, **{n.value: t for n, t in zip(inputs, sample, strict=True)}}
        for node in ready.rest:
            run_node(node, values, bindings)
            tensor = values[node.value]
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.numel():
                low, high = map(float, torch.aminmax(tensor))
                old = found.get(node.name, (low, high))
                found[node.name] = (min(old[0], low), max(old[1], high))
    return found


def range_gaps(
    first: Mapping[str, Range], second: Mapping[str, Range], share: float = RANGE_SHARE
) -> tuple[RangeGap, ...]:
    """Return the values of both whose ranges differ by more than a share, the largest gap first."""
    gaps = [RangeGap(n, first[n], second[n], _shift(first[n], second[n])) for n in first if n in second]
    return tuple(sorted((g for g in gaps if g.share > share), key=lambda g: -g.share))


def cost_gaps(
    first: Mapping[str, CostEstimate],
    second: Mapping[str, CostEstimate],
    errors: float = STANDARD_ERRORS,
) -> tuple[CostGap, ...]:
    """Return the decisions of both whose costs differ by more standard errors than that, largest first."""
    gaps = [CostGap(d, first[d], second[d], _errors(first[d], second[d])) for d in first if d in second]
    return tuple(sorted((g for g in gaps if g.errors > errors), key=lambda g: -g.errors))


def range_advice(gaps: Sequence[RangeGap], values: int) -> str | None:
    """Return what to tell the user about ranges that differ, None where none does."""
    if not gaps:
        return None
    worst = gaps[0]
    return (
        f"the ranges of {len(gaps)} of {values} values differ by more than {RANGE_SHARE:.0%} between the two "
        f"calibration halves (most at {worst.node}: {_text(worst.first)} and {_text(worst.second)}): the "
        f"calibration data are too few to set int8 ranges by; give at least 100 samples, better 500"
    )


def cost_advice(gaps: Sequence[CostGap]) -> str | None:
    """Return what to tell the user about costs that differ, None where none does."""
    if not gaps:
        return None
    worst = gaps[0]
    return (
        f"the two calibration halves disagree by more than {STANDARD_ERRORS:.0f} standard errors on what "
        f"{len(gaps)} decisions cost (most on {worst.decision}: {worst.first.mean:.3g} and "
        f"{worst.second.mean:.3g}): more calibration data would choose more surely"
    )


def _shift(first: Range, second: Range) -> float:
    width = max(first[1] - first[0], second[1] - second[0])
    shift = max(abs(first[0] - second[0]), abs(first[1] - second[1]))
    return shift / width if width else float(shift > 0)


def _errors(first: CostEstimate, second: CostEstimate) -> float:
    apart, error = abs(first.mean - second.mean), math.hypot(first.error, second.error)
    return apart / error if error else (math.inf if apart else 0.0)


def _text(range_: Range) -> str:
    return f"{range_[0]:.3g} to {range_[1]:.3g}"
