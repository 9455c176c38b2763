"""Soups of state dicts, and the statistics that are gathered again behind them."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compiler.compress.average import Untrained, greedy_soup, uniform_soup
from compiler.compress.batch_statistics import reestimate
from compiler.compress.deviation import deviations
from compiler.errors import UsageError
from tests.models.small import ConvNorm, merged, randomize


def _states(count, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: (torch.randn(shape, generator=generator) * 3).to(dtype)  # noqa: E731
    return [{"a.weight": draw(4, 3), "a.bias": draw(4)} for _ in range(count)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_uniform_soup_is_the_mean_rounded_once(dtype):
    states = _states(5, dtype)
    soup = uniform_soup(states)
    for key in states[0]:
        wanted = torch.stack([s[key].double() for s in states]).mean(0)
        assert soup[key].dtype == dtype
        if dtype == torch.float64:
            torch.testing.assert_close(soup[key], wanted, rtol=1e-14, atol=1e-14)
        else:
            assert torch.equal(soup[key], wanted.to(dtype))


def test_a_soup_of_copies_is_the_copy():
    state = _states(1, torch.float64)[0]
    assert all(torch.equal(v, state[k]) for k, v in uniform_soup([state] * 3).items())


def test_what_is_alike_is_kept_and_infinities_with_it():
    mask = torch.full((3, 3), float("-inf")).triu(1)
    states = [{**s, "mask": mask.clone(), "ids": torch.arange(4)} for s in _states(3)]
    soup = uniform_soup(states)
    assert torch.equal(soup["mask"], mask)
    assert torch.equal(soup["ids"], torch.arange(4))


def _second(**changes):
    first, second = _states(2)
    tables = {"ids": torch.arange(4), "scale": torch.ones(2)}
    return [{**first, **tables}, {**second, **tables, **changes}]


@pytest.mark.parametrize(
    ("states", "words"),
    [
        (_second(ids=torch.tensor([0, 1, 3, 2])), r"'ids' is int64\[4\] and differs between"),
        (_second(scale=torch.ones(2) * 2), "'scale' is a constant table and differs"),
        (
            _second(**{"a.weight": torch.ones(4, 5)}),
            r"'a.weight' is float32\[4, 3\] in .* and float32\[4, 5\]",
        ),
        (_second(**{"a.bias": torch.ones(4).half()}), r"'a.bias' is float32\[4\] in .* and float16\[4\]"),
        (_second(more=torch.ones(1)), "ingredient 2 has 'more' and ingredient 1 has not"),
        (_second(**{"a.bias": torch.full((4,), float("nan"))}), "'a.bias' of ingredient 2 holds values"),
        ([], "at least one"),
    ],
)
def test_what_has_no_mean_is_told_with_its_key(states, words):
    with pytest.raises(UsageError, match=words):
        uniform_soup(states, Untrained(tables=frozenset({"scale"})))


def test_tied_weights_stay_tied():
    states = []
    for state in _states(3):
        states.append({"in": state["a.weight"], "out": state["a.weight"], "bias": state["a.bias"]})
    soup = uniform_soup(states)
    assert soup["in"].data_ptr() == soup["out"].data_ptr()
    states[1]["out"] = states[1]["out"] + 1
    with pytest.raises(
        UsageError, match="'out' and 'in' are tied in ingredient 1 and differ in ingredient 2"
    ):
        uniform_soup(states)


def test_counts_of_batches_may_differ():
    nets = [ConvNorm(2, 3, 1) for _ in range(2)]
    nets[1][1].num_batches_tracked.fill_(9)
    nets[1][1].running_mean.fill_(4)
    soup = uniform_soup([n.state_dict() for n in nets])
    assert soup["1.running_mean"].tolist() == [2, 2, 2]
    assert soup["1.num_batches_tracked"].dtype == torch.int64


TARGET = torch.tensor([1.0, 2.0])
# 3, 0.5, 1.5 and 1 from the target; the second and the last on opposite sides of it.
POINTS = [TARGET + torch.tensor(p) for p in ((3.0, 0.0), (-0.5, 0.0), (0.0, 1.5), (1.0, 0.0))]


def _closeness(state):
    return -float((state["w"] - TARGET).norm())


def test_a_greedy_soup_keeps_only_what_improves():
    found = greedy_soup([{"w": p} for p in POINTS], _closeness)
    # (-.5,0): .5 | with (1,0): (.25,0) .25, joins | with (0,1.5): (.167,.5) .53, left out | with (3,0): 1.17, left out
    assert [t.ingredient for t in found.trials] == [1, 3, 2, 0]
    assert [t.kept for t in found.trials] == [True, True, False, False]
    assert found.kept == (1, 3)
    assert found.trials[0].with_it is None
    assert found.trials[2].with_it == pytest.approx(-(((1 / 6) ** 2 + 0.25) ** 0.5))
    torch.testing.assert_close(found.state["w"], (POINTS[1] + POINTS[3]) / 2)
    assert found.score == pytest.approx(-0.25)


def test_a_greedy_soup_is_the_mean_of_what_it_kept():
    generator = torch.Generator().manual_seed(2)
    points = [{"w": torch.randn(8, generator=generator, dtype=torch.float64)} for _ in range(9)]
    found = greedy_soup(points, lambda s: -float(s["w"].norm()))
    assert 3 <= len(found.kept) < 9
    wanted = torch.stack([points[i]["w"] for i in found.kept]).mean(0)
    torch.testing.assert_close(found.state["w"], wanted, rtol=1e-12, atol=1e-12)
    assert found.score == pytest.approx(-float(wanted.norm()))


def test_an_ingredient_that_changes_nothing_is_left_out():
    found = greedy_soup([{"w": POINTS[1]}, {"w": POINTS[1].clone()}], _closeness)
    assert found.kept == (0,)


def test_a_score_must_be_a_number():
    with pytest.raises(UsageError, match="score of b is nan"):
        greedy_soup(
            [{"w": torch.ones(2)}, {"w": torch.zeros(2)}],
            lambda s: 1.0 if s["w"].any() else float("nan"),
            names=("a", "b"),
        )


def _conv_norms(alike):
    nets = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        nets.append(randomize(ConvNorm(3, 4, 3, padding=1), 9 if alike else seed))
    return nets


def _merged_weights(net):
    graph, _ = merged(net, torch.randn(1, 3, 6, 6))
    (conv,) = graph.ops()
    return {key: graph.constant(conv.operand(key)) for key in ("weight", "bias")}


@pytest.mark.parametrize("alike", [True, False], ids=["one BatchNorm", "two BatchNorms"])
def test_merge_then_soup_is_not_soup_then_merge(alike):
    nets = _conv_norms(alike)
    after = uniform_soup([_merged_weights(net) for net in nets])
    soup = copy.deepcopy(nets[0])
    soup.load_state_dict(uniform_soup([net.state_dict() for net in nets]))
    before = _merged_weights(soup)
    distance = max(float((after[k] - before[k]).abs().max() / after[k].abs().max()) for k in after)
    assert distance < 1e-6 if alike else distance > 0.05


class Deep(nn.Module):
    """Two BatchNorms in a row, a dropout, and one BatchNorm that no input reaches."""

    def __init__(self):
        super().__init__()
        self.a, self.na = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, momentum=0.3)
        self.b, self.nb = nn.Conv2d(5, 4, 1), nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)
        self.unused = nn.BatchNorm2d(7)

    def forward(self, x):
        return self.nb(self.b(self.dropout(F.relu(self.na(self.a(x))))))


def _deep():
    torch.manual_seed(4)
    return randomize(Deep(), 3)


def _images(count=4, size=3):
    generator = torch.Generator().manual_seed(8)
    return [(torch.randn(size, 3, 7, 7, generator=generator) * 2 + 1,) for _ in range(count)]


def _by_hand(net, batches):
    """Return the plain means over batches of mean and unbiased variance, in float64."""
    net = copy.deepcopy(net).double()
    seen = {"na": [], "nb": []}

    def normed(name, x):
        norm = getattr(net, name)
        variance, mean = torch.var_mean(x, (0, 2, 3))
        seen[name].append(torch.stack([mean, variance]))
        scale = norm.weight / (x.var((0, 2, 3), correction=0) + norm.eps).sqrt()
        return (x - mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]

    with torch.no_grad():
        for (x,) in batches:
            normed("nb", net.b(F.relu(normed("na", net.a(x.double())))))
    return {name: torch.stack(values).mean(0) for name, values in seen.items()}


def test_statistics_are_those_of_a_float64_reference():
    net, batches = _deep(), _images()
    wanted = _by_hand(net, batches)
    assert reestimate(net, batches) == ("na", "nb")
    for name, (mean, variance) in wanted.items():
        norm = getattr(net, name)
        torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(norm.running_var.double(), variance, rtol=1e-5, atol=1e-6)


def test_all_but_the_statistics_is_left_as_it_was():
    net = _deep()
    before = copy.deepcopy(net)
    reestimate(net, _images())
    assert not any(part.training for part in net.modules())
    assert [net.na.momentum, net.nb.momentum] == [0.3, 0.1]
    for (name, p), q in zip(net.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(p, q), name
    assert torch.equal(net.unused.running_mean, before.unused.running_mean)
    assert torch.equal(net.unused.running_var, before.unused.running_var)


def test_statistics_need_batches_with_a_variance():
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3)).eval()
    with pytest.raises(UsageError, match=r"1 BatchNorms .* needs batches"):
        reestimate(net, [])
    with pytest.raises(UsageError, match="batch 2 gives a BatchNorm one value a channel"):
        reestimate(net, [(torch.randn(2, 3),), (torch.randn(1, 3),)])
    assert not net[1].training


def test_deviations_are_ratios_over_all_calls():
    reference = [(torch.tensor([3.0, 0.0]),), (torch.tensor([0.0, 4.0]),)]
    found = [(torch.tensor([3.0, 1.0]),), (torch.tensor([2.0, 4.0]),)]
    (one,) = deviations(reference, found)
    assert one.relative_rms == pytest.approx(5**0.5 / 5)
    assert (one.relative_max, one.max_abs) == (0.5, 2)
    assert deviations([(torch.zeros(2),)], [(torch.ones(2),)])[0].relative_rms == float("inf")
