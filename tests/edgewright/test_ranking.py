"""The judge of rankings: ties within the tolerance pass, anything else does not."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compiler.evaluate import evaluate
from compiler.merge import Exactness, Outcome
from edgewright.models import load_model
from edgewright.ranking import judge_rankings, rank_only, report_rankings, violations
from edgewright.stages import canonicalise, merged


def judged(found: list, exact: list, own: list | None = None, ranked: tuple[int, ...] = (0,)):
    y = torch.tensor(exact, dtype=torch.float64)
    single = (y if own is None else torch.tensor(own)).float()
    return judge_rankings("x", [torch.tensor(found)], [y], [single], ranked)[0]


def test_scales_and_shifts_of_rows_do_not_matter() -> None:
    torch.manual_seed(0)
    y = torch.randn(5, 9)
    found = y * torch.rand(5, 1) * 7 + torch.randn(5, 1)
    comparison = judged(found.tolist(), y.tolist())
    assert comparison.passed
    assert (comparison.top1_agreement, comparison.order_agreement) == (1.0, 1.0)
    assert not judged(found.tolist(), y.tolist(), ranked=()).passed, "by value they differ"


def test_agreements_are_shares_of_rows() -> None:
    exact = [[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]
    found = [[3.0, 2.0, 1.0], [3.0, 1.0, 2.0], [2.0, 3.0, 1.0], [1.0, 2.0, 3.0]]
    comparison = judged(found, exact)
    assert (comparison.top1_agreement, comparison.order_agreement) == (0.5, 0.25)
    assert comparison.max_abs_error == 2.0
    assert not comparison.passed


def test_ties_within_the_tolerance_pass_and_lost_differences_do_not() -> None:
    assert judged([[1.0, 2.0, 0.0]], [[5.00001, 5.0, 1.0]]).passed
    assert not judged([[1.0, 2.0, 0.0]], [[5.01, 5.0, 1.0]]).passed
    assert not judged([[2.0, 2.0, 0.0]], [[5.0, 4.0, 1.0]]).passed, "what is told apart must stay so"
    rough = [[5.02, 5.0, 1.0]]
    assert judged([[1.0, 2.0, 0.0]], [[5.01, 5.0, 1.0]], rough).passed, "the model's own error allows it"
    assert not judged([[0.0, 0.0, 0.0]], [[5.0, 4.0, 1.0]]).passed
    assert not judged([[float("nan"), 2.0, 0.0]], [[1.0, 2.0, 0.0]]).passed
    assert not judged([[1.0, 2.0]], [[1.0, 2.0, 0.0]]).passed


def test_small_probabilities_are_no_ties() -> None:
    y = torch.tensor([[20.0, 3.0, 1.0, -9.0]]).double()
    assert judged([[4.0, 3.0, 1.0, -9.0]], y.softmax(-1).tolist()).passed
    assert not judged([[4.0, 1.0, 3.0, -9.0]], y.softmax(-1).tolist()).passed
    assert not judged([[4.0, 3.0, -9.0, 1.0]], y.sigmoid().tolist()).passed


def test_violations_by_hand() -> None:
    worst, top = violations(torch.tensor([[9.0, 8.0, 7.0]]), torch.tensor([[1.0, 4.0, 2.0]]).double())
    assert (worst.item(), top.item()) == (3.0, 3.0)


def test_a_lossy_result_is_reported_and_not_judged() -> None:
    y = torch.tensor([[1.0, 2.0]])
    [comparison] = report_rankings("x", [y.flip(-1)], [y], (0,))
    assert comparison.passed
    assert (comparison.tolerance, comparison.order_agreement) == (None, 0.0)


class Cosine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(6, 16, bias=False)
        self.classes = nn.Parameter(torch.randn(4, 16))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 7.5 * F.normalize(self.projection(x), dim=-1) @ self.classes.t(), x.softmax(-1).sum(-1)


@pytest.mark.parametrize("argmax_only", [True, False])
def test_the_projection_folds_into_the_classifier_without_its_norm(argmax_only: bool) -> None:
    torch.manual_seed(0)
    model = load_model(Cosine().eval(), torch.randn(3, 6))
    source = canonicalise(model)
    prepared = merged(rank_only(source) if argmax_only else source)
    names = [n.op.split(".")[1] for n in prepared.graph.ops()]
    assert ("div" in names) is not argmax_only
    assert names.count("linear") + names.count("matmul") == (1 if argmax_only else 2)
    dropped = [
        a for a in prepared.attempts if a.exactness is Exactness.ARGMAX and a.outcome is Outcome.MERGED
    ]
    assert len(dropped) == (2 if argmax_only else 0)
    refused = [
        a for a in prepared.attempts if a.exactness is Exactness.ARGMAX and a.outcome is Outcome.REFUSED
    ]
    assert [a.reason for a in refused] == (
        ["output sum_1 has rank 1; rows along a last axis are ranked"] * argmax_only
    )
    assert prepared.ranked == (frozenset({0}) if argmax_only else frozenset())
    got = evaluate(prepared.graph, [model.args[0]], torch.float64)
    exact, own = model.call_double(model.args, {}), model.call(model.args, {})
    comparisons = judge_rankings("example", got, exact, own, prepared.ranked)
    assert all(c.passed for c in comparisons)
    assert [c.measure for c in comparisons] == ["ranking" if argmax_only else "max_abs", "max_abs"]
