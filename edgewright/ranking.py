"""`--argmax-only`: outputs that only have to rank as the original's do, and the judge of that.

The judge takes the original model's float64 scores y and the order in which the artifact ranks them.
Going down that order, y may rise nowhere by more than a tolerance: then the two orders differ only
among scores that are ties within it. The tolerance is the one of `edgewright.verification`, in the unit
of y. Probabilities are compared as log-odds, an increasing function of them, so that those near 0 and 1
are no ties.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch

from compiler.ir.graph import Graph
from compiler.ir.verify import verify
from compiler.merge import Attempt, Exactness, Outcome
from compiler.merge.attempt import Work
from compiler.passes.ranking import Ranking, keep_rankings
from edgewright.stages import Prepared, Stage
from edgewright.verification import CAP, CONDITION, FLOOR, Comparison, judge


@dataclass(frozen=True)
class RankingComparison(Comparison):
    """One output's order on one set of inputs against its reference.

    `max_abs_error` is the most by which a score rises down the artifact's order, in the reference's
    unit or in log-odds. The agreements are shares of rows, ties within the tolerance allowed.
    """

    top1_agreement: float = 0.0
    order_agreement: float = 0.0


def rank_only(prepared: Prepared) -> Prepared:
    """Return a canonical model with one more stage, in which outputs keep no more than their ranking."""
    start = time.perf_counter()
    graph, rankings = keep_rankings(prepared.graph)
    verify(graph)
    stage = Stage("ranking", graph, time.perf_counter() - start)
    return replace(
        prepared,
        stages=(*prepared.stages, stage),
        attempts=(*prepared.attempts, *ranking_attempts(prepared.graph, rankings)),
        ranked=frozenset(r.output for r in rankings if r.dropped),
    )


def ranking_attempts(graph: Graph, rankings: Sequence[Ranking]) -> tuple[Attempt, ...]:
    """Return what was dropped for a ranking, and what was not, as `explain` shows it."""
    return tuple(_attempt(graph, ranking) for ranking in rankings)


def _attempt(graph: Graph, ranking: Ranking) -> Attempt:
    node = graph.node(ranking.node)
    _, entry = next(node.values())
    return Attempt(
        site=ranking.origin or ranking.node,
        entry=entry.node,
        root=ranking.node,
        nodes=(ranking.node,),
        outcome=Outcome.MERGED if ranking.dropped else Outcome.REFUSED,
        reason=ranking.reason,
        node=ranking.blame,
        form="ranking",
        before=Work((ranking.op.split(".")[1],)),
        exactness=Exactness.ARGMAX,
    )


def judge_rankings(
    inputs: str,
    found: Sequence[torch.Tensor],
    double: Sequence[torch.Tensor],
    single: Sequence[torch.Tensor],
    ranked: Collection[int],
    reference: str = "float64",
) -> list[Comparison]:
    """Compare the order of the `ranked` outputs with the float64 reference's, and others by value.

    Outputs are counted among tensors. Integer outputs (an arg-max) are compared by value as well.
    """
    plain = judge(inputs, found, double, single, reference)
    return [
        _judged(c, found[c.output], double[c.output], single[c.output], reference)
        if c.output in ranked and double[c.output].is_floating_point()
        else c
        for c in plain
    ]


def report_rankings(
    inputs: str, found: Sequence[torch.Tensor], original: Sequence[torch.Tensor], ranked: Collection[int]
) -> list[Comparison]:
    """Return how far the order of the `ranked` outputs is from the original's, without judging it."""
    compared = judge_rankings(inputs, found, original, original, ranked, "original model")
    return [replace(c, tolerance=None) for c in compared if isinstance(c, RankingComparison)]


def _judged(
    plain: Comparison, found: torch.Tensor, exact: torch.Tensor, own: torch.Tensor, reference: str
) -> RankingComparison:
    scores, own_scores = scale_of_ties(exact), scale_of_ties(own)
    finite = scores[torch.isfinite(scores)].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    own_error = float((own_scores - scores).abs().nan_to_num(nan=0.0, posinf=math.inf).max())
    tolerance = max(FLOOR * scale, min(CONDITION * own_error, CAP * scale))
    if found.shape != exact.shape or bool(found.isnan().any()):
        worst = top = torch.full((1,), math.inf)
    else:
        worst, top = violations(found, scores)
    return RankingComparison(
        inputs=plain.inputs,
        output=plain.output,
        reference=reference,
        max_abs_error=float(worst.max()),
        relative_error=float(worst.max()) / scale if scale else 0.0,
        rms_error=float(worst.square().mean().sqrt()),
        snr_db=None,
        tolerance=tolerance,
        own_error=own_error,
        measure="ranking",
        top1_agreement=float((top <= tolerance).double().mean()),
        order_agreement=float((worst <= tolerance).double().mean()),
    )


def scale_of_ties(scores: torch.Tensor) -> torch.Tensor:
    """Return scores in float64, log-odds where all lie between 0 and 1: what a tolerance can compare."""
    wide = scores.double()
    return torch.logit(wide) if bool(((wide >= 0) & (wide <= 1)).all()) else wide


def violations(found: torch.Tensor, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, for each row, how far the order of `found` is from that of `scores`, in their unit.

    The first is the most that a score rises down the order, the second how far the first is below the
    best. Values that `found` cannot tell apart count in the worse order.
    """
    rows = found.double().reshape(-1, found.shape[-1])
    y = torch.nan_to_num(scores.reshape(rows.shape))
    by_score = y.argsort(dim=-1, stable=True)
    order = rows.gather(-1, by_score).argsort(dim=-1, descending=True, stable=True)
    ranked = y.gather(-1, by_score.gather(-1, order))
    least = ranked.cummin(dim=-1).values
    return (ranked - least).amax(dim=-1), y.amax(dim=-1) - ranked[:, 0]
