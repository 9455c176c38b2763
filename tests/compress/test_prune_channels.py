"""Pruning as a decision: sites, options, choice by score, refit; and the invariants of each criterion."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from compiler.compress import prune_channels
from compiler.compress.channel_groups import find_channels
from compiler.compress.channel_readers import readers_of, run_gated, units_read
from compiler.compress.channel_scores import criteria, lrp, vib
from compiler.compress.channel_walk import Reader
from compiler.compress.cut_channels import cut, scaled
from compiler.compress.decision import KEEP, Setting
from compiler.compress.prune_channels import apply, offers
from compiler.compress.refit_readers import refit_readers
from compiler.errors import UsageError
from compiler.evaluate import evaluate
from tests.models.small import ConvNorm, Function, compile_graph, randomize


class Net(nn.Module):
    """A stem, a residual block with a depthwise convolution, a grouped one, and a head."""

    def __init__(self):
        super().__init__()
        self.stem = ConvNorm(3, 16, kernel_size=3, padding=1, stride=2)
        self.up, self.depthwise = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.down = nn.Conv2d(32, 16, 1, bias=False)
        self.grouped = nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=2)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        x = x + self.down(self.depthwise(self.up(x).relu()).relu())
        return self.head(self.grouped(x).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def graph():
    torch.manual_seed(0)
    return compile_graph(randomize(Net()), torch.randn(1, 3, 12, 12))


def _samples(count=12, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(1, 3, 12, 12, generator=generator),) for _ in range(count)]


SETTING = Setting(_samples(), step=4)


def test_sites_and_options_are_on_the_step(graph):
    found = {o.site: o.options for o in offers(graph, SETTING)}
    assert found == {  # two channels in a unit where the grouped layer loses the same in both groups
        "channels:stem.0": ("keep:6", "keep:4"),
        "channels:up": ("keep:28", "keep:24", "keep:20", "keep:16"),
        "channels:grouped": ("keep:6", "keep:4"),
    }
    eight = {o.site: o.options for o in offers(graph, Setting(SETTING.samples, step=8))}
    assert eight["channels:up"] == ("keep:24", "keep:16")


def test_no_samples_no_offers(graph):
    assert offers(graph, Setting()) == ()
    with pytest.raises(UsageError, match="needs calibration samples"):
        apply(graph, {"channels:up": "keep:16"}, Setting())


def test_nothing_chosen_is_the_same_graph(graph):
    assert apply(graph, {}, SETTING) is graph
    assert apply(graph, {"channels:up": KEEP}, SETTING) is graph


@pytest.mark.parametrize(
    ("site", "option", "message"),
    [
        (
            "channels:nowhere",
            "keep:16",
            "no channels to prune at 'channels:nowhere'; accepted: channels:stem",
        ),
        ("channels:head", "keep:4", "cannot be pruned: it is a result of the model"),
        (
            "channels:up",
            "keep:17",
            "no option at 'channels:up'; accepted: keep:28, keep:24, keep:20, keep:16",
        ),
        ("channels:up", "half", "'half' is no option"),
        (
            "channels:up",
            "keep:16:luck",
            "'luck' is no criterion for channels; accepted: activation, lrp, taylor",
        ),
    ],
)
def test_what_is_not_offered_is_refused(graph, site, option, message):
    with pytest.raises(UsageError, match=message):
        apply(graph, {site: option}, SETTING)


@pytest.mark.parametrize("criterion", criteria())
def test_every_criterion_prunes_and_again_the_same(graph, criterion):
    choices = {o.site: f"{o.options[-1]}:{criterion}" for o in offers(graph, SETTING)}
    one, two = (apply(graph, choices, SETTING) for _ in range(2))
    assert one == two
    assert [n.name for n in one.ops()] == [n.name for n in graph.ops()]
    assert evaluate(one, SETTING.samples[0])[0].shape == (1, 5)
    for offer in offers(graph, SETTING):
        alone = apply(graph, {offer.site: choices[offer.site]}, SETTING)
        changed = {n.name for n in graph.ops() if alone.node(n.name).types != n.types}
        assert changed <= offer.nodes


@pytest.mark.parametrize("criterion", criteria())
def test_a_silent_unit_goes_first(graph, criterion):
    """A unit that nothing reads with any weight is worth nothing by every criterion."""
    channels = find_channels(graph)
    group = next(g for g in channels.offered() if g.site == "channels:up")
    (reader,) = group.readers
    silent = {1, 5, 6, 11, 12, 17, 23, 24, 25, 26, 27, 28, 29, 30, 31, 3}
    factors = torch.tensor([0.0 if i in silent else 1.0 for i in range(32)])
    muted = scaled(graph, {reader: factors})
    (rating,) = criteria()[criterion].rate(muted, channels, [group], SETTING.samples)
    others = sorted(set(range(32)) - silent)
    quiet, heard = rating.scores[sorted(silent)], rating.scores[others]
    if criterion == "vib":  # gates are trained for some steps only: they lean, and do not decide
        assert quiet.mean() < heard.mean()
    else:
        assert quiet.max() == 0 <= heard.min()  # some of the others never fire
        assert (heard > 0).sum() > 8


def test_refit_lowers_the_error_on_the_rows_it_fits(graph):
    channels = find_channels(graph)
    for group in channels.offered():
        kept = np.ones(channels.count, bool)
        kept[group.units[::2]] = False
        smaller = cut(graph, channels, kept)
        fitted = refit_readers(graph, smaller, channels, kept, group.readers, SETTING.samples)
        for reader in group.readers:
            before, after = (_error(graph, g, reader, channels, kept) for g in (smaller, fitted))
            assert after < 0.9 * before


def _error(graph, other, reader, channels, kept):
    """Return how far a reader's result is from the dense one, over all samples."""
    node = graph.node(reader.node)

    def seen(g, sample):
        values = []
        probe = Reader(reader.node, reader.dim, reader.groups)
        run_gated(g, sample, [probe], lambda _, x: values.append(x) or x)
        op = g.node(reader.node)
        stored = [
            None if (v := op.operand(k)) is None else g.constant(v).double() for k in ("weight", "bias")
        ]
        if "conv" not in op.op:
            return torch.nn.functional.linear(values[0], *stored)
        keys = ("stride", "padding", "dilation", "groups")
        return torch.nn.functional.conv2d(values[0], *stored, *(op.operand(k) for k in keys))

    total = 0.0
    for sample in SETTING.samples:
        wanted, found = seen(graph, sample), seen(other, sample)
        if wanted.shape != found.shape:
            axis = channels.axes[node.value][0]
            wanted = wanted.index_select(axis.dims[0], torch.from_numpy(np.flatnonzero(kept[axis.atoms])))
        total += float((wanted - found).square().sum())
    return total


def test_refit_where_nothing_was_lost_changes_nothing(graph):
    channels = find_channels(graph)
    kept = np.ones(channels.count, bool)
    readers = readers_of(channels.offered())
    fitted = refit_readers(graph, graph, channels, kept, readers, SETTING.samples)
    for reader in readers:
        weight = graph.node(reader.node).operand("weight")
        assert torch.equal(fitted.constant(weight), graph.constant(weight))


READERS = {
    "strided": lambda: nn.Conv2d(8, 6, (3, 2), stride=2, padding=(1, 2)),
    "dilated, in groups": lambda: nn.Conv2d(8, 6, 3, padding=2, dilation=2, groups=2, bias=False),
    "pointwise": lambda: nn.Conv2d(8, 6, 1),
}


@pytest.mark.parametrize("reader", READERS)
def test_refit_makes_a_copied_channel_dispensable(reader):
    """Of two equal channels one can go: the weights of the other take its part, but for the damping."""
    torch.manual_seed(0)
    first = nn.Conv2d(3, 8, 3, padding=1)
    with torch.no_grad():
        for tensor in (first.weight, first.bias):
            tensor[1::2] = tensor[::2]
    net = nn.Sequential(first, nn.ReLU(), READERS[reader](), nn.Flatten(), nn.Linear(1, 2))
    net[4] = nn.Linear(net[:4](torch.zeros(1, 3, 12, 12)).shape[1], 2)
    graph = compile_graph(net, torch.zeros(1, 3, 12, 12))
    channels = find_channels(graph)
    group = next(g for g in channels.offered() if g.sources == ("conv2d",))
    kept = np.ones(channels.count, bool)
    kept[group.units[1::2]] = False
    smaller = cut(graph, channels, kept)
    fitted = refit_readers(graph, smaller, channels, kept, group.readers, SETTING.samples)
    before, after = (_error(graph, g, group.readers[0], channels, kept) for g in (smaller, fitted))
    assert after < 0.01 * before


@pytest.mark.parametrize("criterion", ["activation", "lrp", "taylor"])
def test_units_that_give_nothing_are_the_ones_that_go(graph, criterion):
    group = next(g for g in find_channels(graph).offered() if g.site == "channels:up")
    muted = scaled(graph, {group.readers[0]: torch.arange(32) % 2})
    smaller = apply(muted, {group.site: f"keep:16:{criterion}"}, SETTING)
    for sample in _samples(3, seed=9):
        (wanted,), (found,) = (evaluate(g, sample) for g in (muted, smaller))
        assert float((found - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())


# ---- LRP


def test_relevance_is_conserved_and_not_negative():
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1, stride=2, bias=False), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 12, 3, padding=1, groups=2, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(12, 5, bias=False)),
    )
    with torch.no_grad():
        net[7].weight.abs_()  # every logit has something positive to explain it
    call = 10 * torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    graph = compile_graph(net, call)
    found = lrp.propagate(graph, (call,))
    sums = [float(r.sum()) for v, r in found.of.items()]
    assert len(sums) == len(graph.ops()) + 1  # the input too
    assert max(abs(s - 1) for s in sums) < 1e-8
    assert min(float(r.min()) for r in found.of.values()) >= 0


def test_relevance_passes_residuals_gates_norms_and_attention():
    def run(x, first, norm, qkv, out, gate, head):
        x = first(x)
        q, k, v = qkv(norm(x)).reshape(1, 5, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, 5, 8))
        x = torch.cat([x, x * gate(x.mean(1, keepdim=True)).sigmoid()], 1)
        return head(nn.functional.gelu(x).mean(1))

    torch.manual_seed(0)
    layers = [
        nn.Linear(6, 8),
        nn.LayerNorm(8),
        nn.Linear(8, 24),
        nn.Linear(8, 8),
        nn.Linear(8, 8),
        nn.Linear(8, 3),
    ]
    call = torch.randn(1, 5, 6, generator=torch.Generator().manual_seed(1))
    graph = compile_graph(Function(run, *layers), call)
    found = lrp.propagate(graph, (call,))
    (source,) = graph.inputs()
    assert float(found.of[source.value].sum()) == pytest.approx(1, abs=1e-6)
    assert min(float(r.min()) for r in found.of.values()) >= 0
    gate = next(n for n in graph.ops() if n.op == "aten.sigmoid.default")
    assert gate.value not in found.of


# ---- VIB


def test_gates_start_open():
    gates = vib.first_gates(4000, torch.Generator().manual_seed(0))
    assert float(gates.divergence().mean()) == pytest.approx(4.5, abs=0.01)
    assert float(gates.keep().min()) == pytest.approx(1, abs=1e-6)
    assert float(vib.sparsity(gates, torch.rand(4000))) == pytest.approx(0, abs=1e-6)
    threshold = vib.Gates(torch.ones(1), torch.zeros(1))
    assert float(threshold.divergence()) == pytest.approx(0.5 * math.log(2))
    assert float(threshold.keep()) == pytest.approx(0.5)


def test_divergence_is_that_from_the_best_prior():
    mean, log_variance = torch.tensor(0.7, dtype=torch.float64), torch.tensor(-1.3, dtype=torch.float64)
    variance = log_variance.exp()
    prior = torch.linspace(0.01, 4, 400001, dtype=torch.float64)
    kl = 0.5 * (prior.log() - log_variance + (variance + mean**2) / prior - 1)
    assert float(prior[kl.argmin()]) == pytest.approx(float(mean**2 + variance), abs=2e-5)
    assert float(kl.min()) == pytest.approx(float(vib.Gates(mean, log_variance).divergence()), abs=1e-9)


def test_gates_fold_into_the_weights_that_read_them(graph):
    channels = find_channels(graph)
    groups = channels.offered()
    factors = torch.rand(channels.count, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    units = {r: torch.from_numpy(units_read(graph, channels, r)) for r in readers_of(groups)}
    folded = scaled(compile64(graph), {r: factors[u] for r, u in units.items()})

    def gate(reader, x):
        shape = [1, -1] + [1] * (x.dim() - 2)
        return x * factors[units[reader]].reshape(shape)

    (sample,) = SETTING.samples[0]
    wanted = run_gated(graph, (sample,), list(units), gate)[0]
    found = evaluate(folded, (sample,), torch.float64)[0]
    assert float((wanted - found).abs().max()) < 1e-9 * float(wanted.abs().max())


def compile64(graph):
    """Return the graph with its weights in float64, where a factor rounds nothing."""
    wide = graph.copy()
    for name, stored in graph.constants.items():
        wide.constants[name] = type(stored)(stored.tensor.double())
    return wide


def test_offers_are_those_of_the_module():
    assert prune_channels.METHOD == "prune_channels"
    assert set(criteria()) == {"activation", "lrp", "taylor", "vib"}
