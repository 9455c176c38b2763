"""Averaging before and after the merge are two different networks; only one of them is the soup."""

from __future__ import annotations

import torch

from compiler.evaluate import evaluate
from compiler.ir.graph import Graph
from tests.methods.judge import compiled
from tests.methods.soups import Ensemble, image, ingredients, souped


def _weight(graph: Graph) -> torch.Tensor:
    conv = next(n for n in graph.ops() if n.op == "aten.conv2d.default")
    return graph.constant(conv.operand("weight"))


def test_merge_then_soup_differs_from_soup_then_merge() -> None:
    members = ingredients()
    merged = [_weight(compiled(image(m))[0]) for m in members]
    soup, _, _ = compiled(image(souped(members)))
    mean = sum(merged) / len(merged)
    assert (mean - _weight(soup)).abs().max() > 0.1 * mean.abs().max()


def test_an_ensemble_of_affine_members_averages_the_merged_weights() -> None:
    members = ingredients()
    merged = [_weight(compiled(image(m))[0]) for m in members]
    ensemble, _, _ = compiled(image(Ensemble(members, nonlinear=False)))
    assert torch.allclose(_weight(ensemble), sum(merged) / len(merged), rtol=1e-12)


def test_averaging_the_weights_of_nonlinear_members_is_another_function() -> None:
    members = ingredients()
    (x,) = image(members[0])[1]
    soup, _, _ = compiled(image(souped(members)))
    with torch.no_grad():
        wanted = Ensemble(members, nonlinear=True).double()(x.double())
    got = evaluate(soup, [x], torch.float64)[0].relu()
    assert (got - wanted).abs().max() > 0.1 * wanted.abs().max()
