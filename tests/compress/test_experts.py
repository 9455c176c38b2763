"""Experts under a random partition: found in every form, averaged once, measured, or refused by name."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compiler.compress.average_experts import average_experts
from compiler.compress.random_rows import draws
from compiler.errors import UnsupportedModelError, UsageError
from compiler.evaluate import evaluate
from compiler.merge import Exactness
from tests.models.experts import FORMS, WIDTH, Mlp, Partitioned, average_of, by_index, imported, spread

pytestmark = pytest.mark.thorough


def _batches(count=3, rows=9):
    generator = torch.Generator().manual_seed(7)
    return [[torch.randn(rows, WIDTH, generator=generator) * 3 + 0.5] for _ in range(count)]


def _averaged(module, count=8, rows=9):
    return average_experts(imported(module, torch.randn(rows, WIDTH)), _batches(rows=rows), count)


def _relative(graph, wanted, batch):
    (got,) = evaluate(graph, batch, torch.float64)
    return float((got - wanted.detach()).abs().max() / wanted.detach().abs().max())


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
def test_every_form_becomes_one_expert_with_the_mean_weights(form, count):
    experts = spread(count, 0.5)
    made = _averaged(Partitioned(form, *experts))
    assert not any(draws(n) for n in made.graph.ops())
    assert made.graph.histogram()["aten.linear.default"] == 2
    assert {*made.graph.histogram()} <= {"aten.linear.default", "aten.gelu.default", "aten.reshape.default"}
    (group,) = made.groups
    assert (group.experts, group.weights) == (count, 4)
    for batch in _batches():
        wanted = average_of(experts)(batch[0].double())
        assert _relative(made.graph, wanted, batch) < 1e-6  # the means were rounded to float32


def test_the_deviation_falls_with_the_spread_to_first_order():
    found = {}
    for size in (1.0, 0.1, 0.01):
        made = _averaged(Partitioned(by_index, *spread(2, size)))
        found[size] = made.deviation[0].relative_rms
        assert made.exactness is Exactness.LOSSY
        assert made.groups[0].spread == pytest.approx(size / 2**0.5, rel=0.35)
    assert 0.2 < found[1.0] < 2
    assert found[1.0] / found[0.1] > 3
    assert found[0.1] / found[0.01] == pytest.approx(10, rel=0.1)


def test_the_deviation_is_that_of_the_module_itself():
    torch.manual_seed(3)
    experts = spread(2, 0.3)
    module = Partitioned(by_index, *experts).eval()
    made = _averaged(module)
    noise = signal = 0.0
    for seed in range(8):
        torch.manual_seed(seed)
        for (x,) in _batches():
            with torch.no_grad():
                y, mean = module.double()(x.double()), average_of(experts)(x.double())
            noise += float((mean - y).square().sum())
            signal += float(y.square().sum())
    assert made.deviation[0].relative_rms == pytest.approx((noise / signal) ** 0.5, rel=1e-5)
    assert made.between_draws[0].relative_rms > 0


@pytest.mark.parametrize("experts", [spread(3, 0.0), [Mlp()] * 2], ids=["copies", "one module"])
def test_experts_that_coincide_cost_nothing(experts):
    made = _averaged(Partitioned(by_index, *experts))
    assert made.groups[0].spread == 0
    assert made.deviation[0].relative_rms < 1e-14
    assert made.between_draws[0].relative_rms < 1e-14


def test_two_sets_of_experts_one_after_the_other():
    first, second = spread(2, 0.2), spread(3, 0.2, seed=1)
    module = nn.Sequential(Partitioned(by_index, *first), Partitioned(by_index, *second))
    made = _averaged(module)
    assert [g.experts for g in made.groups] == [2, 3]
    assert made.graph.histogram()["aten.linear.default"] == 4
    (x,) = _batches()[0]
    wanted = average_of(second)(average_of(first)(x.double()))
    assert _relative(made.graph, wanted, [x]) < 1e-6


class Heads(nn.Module):
    """An expert that reshapes its rows and reads a residual."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(WIDTH // 2, WIDTH // 2)

    def forward(self, x):
        return x + F.gelu(self.mix(x.reshape(len(x), 2, WIDTH // 2))).transpose(1, 2).reshape(len(x), WIDTH)


def test_a_reshape_that_counts_the_rows_counts_all_of_them():
    experts = spread(2, 0.3, Heads)
    made = _averaged(Partitioned(by_index, *experts))
    (x,) = _batches()[0]
    assert _relative(made.graph, average_of(experts)(x.double()), [x]) < 1e-6


class Normed(nn.Module):
    """An expert with a BatchNorm of its own."""

    def __init__(self):
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.Linear(8, WIDTH)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.3, 2)

    def forward(self, x):
        return self.down(F.relu(self.norm(self.up(x))))


def test_batch_norms_behind_averaged_weights_see_all_rows_again():
    experts = spread(2, 0.4, Normed)
    tail = nn.BatchNorm1d(WIDTH).eval()
    tail.running_mean.normal_()
    made = _averaged(nn.Sequential(Partitioned(by_index, *experts), tail))
    assert len(made.batch_norms) == 2
    reference = average_of(experts).requires_grad_(False)
    x = torch.cat([b for (b,) in _batches()]).double()
    seen = reference.up(x)
    variance, mean = torch.var_mean(seen, 0)
    y = (seen - mean) / (variance + 1e-5).sqrt() * reference.norm.weight + reference.norm.bias
    y = reference.down(F.relu(y))
    variance, mean = torch.var_mean(y, 0)
    wanted = (y - mean) / (variance + 1e-5).sqrt()
    got = torch.cat([evaluate(made.graph, b, torch.float64)[0] for b in _batches()])
    assert float((got - wanted).abs().max() / wanted.abs().max()) < 1e-5


def test_statistics_stay_where_experts_coincide():
    experts = spread(2, 0.0, Normed)
    made = _averaged(Partitioned(by_index, *experts))
    assert made.batch_norms == ()
    assert made.deviation[0].relative_rms < 1e-12


def _router(experts, x):
    order = torch.argsort(x.sum(1))
    return torch.cat([e(p) for e, p in zip(experts, x[order].chunk(2), strict=True)])[order.argsort()]


def _noisy_router(experts, x):
    order = torch.argsort(x.sum(1) + torch.randn(len(x)))
    return torch.cat([e(p) for e, p in zip(experts, x[order].chunk(2), strict=True)])[order.argsort()]


def _put_back_wrong(experts, x):
    order = torch.randperm(len(x))
    return torch.cat([e(p) for e, p in zip(experts, x[order].chunk(2), strict=True)])[order]


def _never_put_back(experts, x):
    order = torch.randperm(len(x))
    return torch.cat([e(p) for e, p in zip(experts, x[order].chunk(2), strict=True)])


def _swapped(experts, x):
    order = torch.randperm(len(x))
    first, second = x[order].chunk(2)
    return torch.cat([experts[0](second), experts[1](first)])[order.argsort()]


def _with_replacement(experts, x):
    picked = torch.randint(len(x), (len(x),))
    return torch.cat([e(p) for e, p in zip(experts, x[picked].chunk(2), strict=True)])


def _some_rows(experts, x):
    out, order = x.clone(), torch.randperm(len(x))
    for expert, own in zip(experts, (order[:3], order[3:6]), strict=True):
        out[own] = expert(x[own])
    return out


def _two_orders(experts, x):
    out, first, second = x.clone(), torch.randperm(len(x)), torch.randperm(len(x))
    for expert, own in zip(experts, (first[:4], second[4:]), strict=True):
        out[own] = expert(x[own])
    return out


def _noise(experts, x):
    return by_index(experts, x + torch.randn(x.shape))


def _plain(experts, x):
    return experts[0](x) + experts[1](x)


class Mixing(Mlp):
    """An expert in which rows attend to each other."""

    def forward(self, x):
        return super().forward(torch.softmax(x @ x.T, -1) @ x)


class Relu(Mlp):
    def forward(self, x):
        return self.down(F.relu(self.up(x)))


class Tanh(Mlp):
    def forward(self, x):
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Table(Mlp):
    def __init__(self):
        super().__init__()
        self.register_buffer("places", torch.randperm(WIDTH))

    def forward(self, x):
        return super().forward(x.index_select(1, self.places))


def _pair(build=Mlp):
    torch.manual_seed(5)
    return build(), build()


@pytest.mark.parametrize(
    ("route", "experts", "reason", "node"),
    [
        (_router, _pair(), "chosen by argsort, which depends on the input: a router", "argsort"),
        (_noisy_router, _pair(), "depends on the input", "argsort"),
        (_put_back_wrong, _pair(), "rows are put back in other places", "split"),
        (_never_put_back, _pair(), "put back in their own places", "randperm"),
        (_swapped, _pair(), "rows are put back in other places", "split"),
        (_with_replacement, _pair(), "not in an order of all", "randint"),
        (_some_rows, _pair(), "put back in their own places", "randperm"),
        (_two_orders, _pair(), "put back in their own places", "randperm"),
        (_noise, _pair(), "drawn for something other than a partition", "randn"),
        (_plain, _pair(), "nothing draws random numbers", ""),
        (by_index, (Mlp(), Relu()), "the experts differ: gelu and relu", "relu"),
        (by_index, (Mlp(), Tanh()), "differ in approximate of gelu", "gelu_1"),
        (by_index, (Mlp(), Mlp(hidden=7)), "weights of different shapes", "experts_1"),
        (by_index, _pair(Mixing), "an expert mixes its rows", "index_1"),
        (by_index, _pair(Table), "tables that differ have no mean", "experts_0_places"),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
def test_what_is_no_such_partition_is_refused_with_the_node(route, experts, reason, node):
    with pytest.raises(UnsupportedModelError, match=reason) as caught:
        _averaged(Partitioned(route, *experts), rows=8)
    assert f"node '{node}" in str(caught.value) or not node


def test_nothing_is_averaged_unmeasured():
    graph = imported(Partitioned(by_index, *spread(2, 0.1)), torch.randn(9, WIDTH))
    with pytest.raises(UsageError, match="measured on batches"):
        average_experts(graph, [])
