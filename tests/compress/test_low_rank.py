"""Low rank: the error is known beforehand, and is the least there is."""

import pytest
import torch
from torch import nn

from compiler.compress import low_rank
from compiler.compress.decision import KEEP, Setting
from compiler.compress.low_rank import output_spreads, truncated
from compiler.compress.observe import channel_axis, observed, rows
from compiler.compress.sites import bias_of, layers, weight_of
from compiler.errors import UsageError
from compiler.evaluate import evaluate
from compiler.ir.verify import verify
from tests.models.small import ConvNorm, merged, randomize


def _images(count=6, channels=5, size=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(channels, channels, generator=generator, dtype=torch.float64)
    return [
        [
            torch.einsum(
                "oc,nchw->nohw", mix, torch.randn(2, channels, size, size, generator=generator).double()
            )
            + 3
        ]
        for _ in range(count)
    ]


def _net():
    torch.manual_seed(1)
    return randomize(
        nn.Sequential(ConvNorm(5, 24, 3, padding=1, stride=2), nn.ReLU(), ConvNorm(24, 40, 1), nn.ReLU())
    )


def _linear_case(inputs=24, outputs=32, rows_=400, seed=3):
    generator = torch.Generator().manual_seed(seed)
    decay = torch.exp(-torch.arange(inputs).double() / 4)
    x = (
        torch.randn(rows_, inputs, generator=generator).double()
        * decay
        @ torch.randn(inputs, inputs, generator=generator).double()
        + 2
    )
    torch.manual_seed(seed)
    graph, _ = merged(nn.Linear(inputs, outputs), x[:100])
    return graph, [[x[i : i + 100]] for i in range(0, rows_, 100)]


def _spread_and_layer(graph, samples, index=0):
    node = list(layers(graph).values())[index]
    return node, output_spreads(graph, [node], Setting(samples))[node.name]


def test_the_error_is_the_tail_known_beforehand_and_monotone_in_rank():
    graph, samples = _linear_case()
    node, spread = _spread_and_layer(graph, samples)
    weight, bias = weight_of(graph, node), bias_of(graph, node)
    x = torch.cat([s[0] for s in samples])
    y = x @ weight.T + bias
    errors = []
    for rank in range(1, 25):
        pair = truncated(weight, bias, spread, rank)
        got = x @ pair.narrow.T @ pair.wide.T + pair.bias
        errors.append(float((got - y).norm()))
        assert errors[-1] == pytest.approx(pair.error, rel=1e-6, abs=1e-5)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5  # full rank is the layer itself


def test_the_error_is_that_of_the_truncated_svd_behind_the_input_covariance_and_below_the_plain_one():
    graph, samples = _linear_case()
    node, spread = _spread_and_layer(graph, samples)
    weight, bias = weight_of(graph, node), bias_of(graph, node)
    x = torch.cat([s[0] for s in samples])
    y = x @ weight.T
    centred = x - x.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    root = vectors * values.clamp_min(0).sqrt()
    singular = torch.linalg.svdvals(weight @ root)
    for rank in (4, 8, 16):
        pair = truncated(weight, bias, spread, rank)
        assert pair.error == pytest.approx(float(singular[rank:].square().sum().sqrt()), rel=1e-8)
        u, s, v = torch.linalg.svd(weight)
        plain = (u[:, :rank] * s[:rank]) @ v[:rank]
        residual = x @ plain.T - y
        assert pair.error < float((residual - residual.mean(0)).norm())


@pytest.mark.parametrize("index", [0, 1])
def test_a_convolution_becomes_a_narrow_one_and_a_pointwise_with_the_predicted_error(index):
    samples = _images()
    graph, _ = merged(_net(), samples[0][0])
    setting = Setting(samples, step=4)
    offered = low_rank.offers(graph, setting)
    site, option = offered[index].site, offered[index].options[-1]
    node = graph.node(next(iter(offered[index].nodes)))
    spread = output_spreads(graph, [node], setting)[node.name]
    pair = truncated(weight_of(graph, node), bias_of(graph, node), spread, int(option.split(":")[1]))
    changed = low_rank.apply(graph, {site: option}, setting)
    verify(changed)
    assert len(changed.ops()) == len(graph.ops()) + 1
    assert changed.node(node.name).operand("weight") != node.operand("weight")
    squared = 0.0
    pairs = zip(observed(graph, [node.value], samples), observed(changed, [node.value], samples), strict=True)
    for own, other in pairs:
        squared += float((own[node.value] - other[node.value]).square().sum())
    assert squared**0.5 == pytest.approx(pair.error, rel=1e-6)
    assert rows(own[node.value], channel_axis(graph, node)).shape[1] == node.type.shape[1]


def test_what_lies_between_the_two_has_one_size():
    samples = _images()
    graph, _ = merged(_net(), samples[0][0])
    setting = Setting(samples, step=4)
    offer = low_rank.offers(graph, setting)[1]
    changed = low_rank.apply(graph, {offer.site: offer.options[0]}, setting)
    (name,) = [n.name for n in changed.ops() if n.name.endswith("_narrow")]
    middle = torch.cat(
        [rows(v[changed.node(name).value], 1) for v in observed(changed, [changed.node(name).value], samples)]
    )
    assert torch.allclose(middle.std(0, correction=0), torch.ones(middle.shape[1]).double(), rtol=1e-6)


def test_ranks_stand_on_the_step_below_the_break_even_and_need_rows():
    samples = _images()
    graph, _ = merged(_net(), samples[0][0])
    for offer in low_rank.offers(graph, Setting(samples, step=4)):
        (node,) = (graph.node(n) for n in offer.nodes)
        out, taps = weight_of(graph, node).flatten(1).shape
        ranks = [int(o.split(":")[1]) for o in offer.options]
        assert ranks == sorted(ranks, reverse=True) and all(
            r % 4 == 0 and r * (taps + out) < taps * out for r in ranks
        )
    assert len(low_rank.offers(graph, Setting(samples, step=4))) == 2
    assert low_rank.offers(graph, Setting((), step=4)) == ()
    assert low_rank.offers(graph, Setting([[s[0][:1, :, :2, :2]] for s in samples[:1]], step=64)) == ()


def test_a_depthwise_layer_is_not_offered():
    graph, _ = merged(nn.Conv2d(16, 16, 3, groups=16, padding=1), torch.randn(1, 16, 12, 12))
    assert low_rank.offers(graph, Setting([[torch.randn(1, 16, 12, 12)]] * 9, step=1)) == ()


def test_keeping_changes_nothing_and_unknown_choices_are_refused():
    samples = _images()
    graph, _ = merged(_net(), samples[0][0])
    setting = Setting(samples, step=4)
    site = low_rank.offers(graph, setting)[0].site
    assert low_rank.apply(graph, {site: KEEP}, setting) is graph
    with pytest.raises(UsageError, match="has no site 'nowhere'"):
        low_rank.apply(graph, {"nowhere": "rank:4"}, setting)
    with pytest.raises(UsageError, match="has no option 'rank:5'"):
        low_rank.apply(graph, {site: "rank:5"}, setting)


def test_equal_calls_give_equal_graphs():
    samples = _images()
    graph, _ = merged(_net(), samples[0][0])
    setting = Setting(samples, step=4)
    choices = {o.site: o.options[0] for o in low_rank.offers(graph, setting)}
    first, second = (low_rank.apply(graph, choices, setting) for _ in range(2))
    assert first == second
    assert torch.equal(evaluate(first, samples[0])[0], evaluate(second, samples[0])[0])
