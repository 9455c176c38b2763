"""Sublayers left out: found on the graph, gone without a trace, in an order near the best."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compiler.compress import drop_sublayers
from compiler.compress.decision import Setting
from compiler.compress.drop_sublayers import greedy_order, without
from compiler.compress.output_distance import distance_to, jensen_shannon
from compiler.compress.residuals import residuals
from compiler.errors import UsageError
from compiler.evaluate import evaluate
from compiler.ir.verify import verify
from tests.models.small import ConvNorm, Function, compile_graph, merged, randomize


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


class Attention(nn.Module):
    def __init__(self, width=12, heads=3):
        super().__init__()
        self.norm, self.qkv, self.proj = (
            nn.LayerNorm(width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )
        self.heads = heads

    def forward(self, x):
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c))


class FeedForward(nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 24), nn.Linear(24, width)

    def forward(self, x):
        return self.down(F.gelu(self.up(self.norm(x))))


class Transformer(nn.Module):
    """Sublayers one after the other, or all of a block side by side; `left_out` does not run some."""

    def __init__(self, blocks=2, parallel=False, left_out=()):
        super().__init__()
        self.sublayers = nn.ModuleList(kind() for _ in range(blocks) for kind in (Attention, FeedForward))
        self.head, self.parallel, self.left_out = nn.Linear(12, 5), parallel, left_out

    def forward(self, x):
        for i in range(0, len(self.sublayers), 2):
            read = x
            for j in (i, i + 1):
                if j not in self.left_out:
                    x = x + self.sublayers[j](read if self.parallel else x)
        return self.head(x.mean(1))


@pytest.mark.parametrize("parallel", [False, True])
def test_every_sublayer_is_found_and_leaving_it_out_is_the_shorter_model_bit_for_bit(parallel):
    torch.manual_seed(0)
    module = Transformer(2, parallel).double().eval()
    x = _random(2, 6, 12)
    graph = compile_graph(module, x)
    found = residuals(graph)
    assert [r.origin.split(".")[1] for r in found] == ["0", "1", "2", "3"]
    for index, residual in enumerate(found):
        module.left_out = (index,)
        changed = without(graph, residual.add)
        verify(changed)
        assert len(changed.ops()) == len(graph.ops()) - len(residual.nodes) - 1
        assert torch.equal(evaluate(changed, [x])[0], evaluate(compile_graph(module, x), [x])[0])


class Bottleneck(nn.Module):
    def __init__(self, width, stride=1):
        super().__init__()
        self.body = nn.Sequential(
            ConvNorm(width, 2 * width, 1), nn.ReLU(), ConvNorm(2 * width, width, 3, padding=1)
        )

    def forward(self, x):
        return F.relu(x + self.body(x))


def test_residual_blocks_of_convolutions_are_found_and_shortcuts_with_weights_are_none():
    torch.manual_seed(0)
    down, short = ConvNorm(8, 16, 3, padding=1, stride=2), ConvNorm(8, 16, 1, stride=2)

    def forward(x, first, down, short, last):
        x = first(x)
        return last(F.relu(F.relu(down(x)) + short(x)))

    module = randomize(Function(forward, Bottleneck(8), down, short, Bottleneck(16)))
    x = _random(1, 8, 8, 8)
    graph, _ = merged(module, x)
    found = residuals(graph)
    assert len(found) == 2
    changed = without(graph, found[1].add)
    (relu,) = (n for n in changed.ops() if n.name == changed.output.operands[0][1].node)
    assert relu.op == "aten.relu.default" and relu.operand("self") == found[1].skip
    (_, got) = evaluate(watch(changed, relu.operand("self"), relu.value), [x])
    (skip,) = evaluate(watch(graph, found[1].skip), [x])
    assert torch.equal(got, F.relu(skip))


def watch(graph, *values):
    from compiler.compress.observe import watching

    return watching(graph, values)


def test_a_branch_something_else_reads_stays_for_that_reader():
    torch.manual_seed(0)

    def forward(x, layer, other):
        y = layer(x)
        return F.relu(x + y), other(y)

    graph = compile_graph(Function(forward, nn.Linear(6, 6), nn.Linear(6, 3)).double(), _random(2, 6))
    assert residuals(graph) == ()  # nothing would be saved


def test_js_is_bounded_symmetric_and_zero_on_equal_inputs_unlike_the_exchanged_one():
    p, q = torch.tensor([[40.0, 0, 0], [1, 2, 3]]), torch.tensor([[0, 40.0, 0], [3, 1, 0.5]])
    js = jensen_shannon(p, q)
    assert bool((js <= math.log(2) + 1e-12).all()) and float(js[0]) == pytest.approx(math.log(2))
    assert torch.equal(js, jensen_shannon(q, p)) and float(jensen_shannon(p, p).abs().max()) == 0
    a, b = p.double().softmax(-1), q.double().softmax(-1)
    m = (a + b) / 2
    exchanged = 0.5 * ((m * (m / a).log()).sum(-1) + (m * (m / b).log()).sum(-1))
    assert float(exchanged[0]) > math.log(2)
    masked = torch.tensor([[0.0, -math.inf]])
    assert float(jensen_shannon(masked, masked.flip(1))) == pytest.approx(math.log(2))


class ResidualMlp(nn.Module):
    """The reference net on the digits: 8 residual blocks of one hidden layer."""

    def __init__(self, seed, width=48, hidden=64, blocks=8):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first, self.last = nn.Linear(64, width), nn.Linear(width, 10)
        self.up = nn.ModuleList(nn.Linear(width, hidden) for _ in range(blocks))
        self.down = nn.ModuleList(nn.Linear(hidden, width) for _ in range(blocks))
        nn.init.normal_(self.first.weight, std=1 / 8, generator=generator)
        for up, down in zip(self.up, self.down, strict=True):
            nn.init.normal_(up.weight, std=(2 / width) ** 0.5, generator=generator)
            nn.init.normal_(down.weight, std=0.35 / 8, generator=generator)
        for layer in (self.first, self.last, *self.up, *self.down):
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.last.weight, std=1 / width**0.5, generator=generator)

    def forward(self, x):
        h = self.first(x)
        for up, down in zip(self.up, self.down, strict=True):
            h = h + down(F.relu(up(h)))
        return self.last(h)


def trained(seed, steps=300):
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.data, dtype=torch.float32)
    x = (x - x.mean(0)) / (x.std(0) + 0.1)
    y = torch.tensor(data.target)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    net = ResidualMlp(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(steps):
        pick = order[:900][torch.randint(900, (64,), generator=generator)]
        optimizer.zero_grad()
        F.cross_entropy(net(x[pick]), y[pick]).backward()
        optimizer.step()
        schedule.step()
    return net.eval(), x[order[900:1300]]


def _exhaustive(net, x, count):
    """Return the least divergence over all sets of `count` blocks left out."""

    def run(left_out):
        h = net.first(x)
        for i, (up, down) in enumerate(zip(net.up, net.down, strict=True)):
            h = h if i in left_out else h + down(F.relu(up(h)))
        return net.last(h)

    with torch.no_grad():
        reference = run(())
        sets = itertools.combinations(range(len(net.up)), count)
        return min(float(jensen_shannon(reference, run(s)).mean()) for s in sets)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_greedy_order_is_near_the_best_of_all_sets(seed):
    torch.set_num_threads(1)
    net, x = trained(seed)
    graph = compile_graph(net, x)
    assert len(residuals(graph)) == 8
    order = greedy_order(graph, [[x]], 4)
    for count, step in enumerate(order, start=1):
        best = _exhaustive(net, x, count)
        assert best <= step.distance * (1 + 1e-5)
        assert step.distance <= 1.15 * best
    dropped = graph
    for step in order:
        dropped = without(dropped, step.add)
    distance = distance_to(graph, [evaluate(graph, [x])])
    assert order[-1].distance == pytest.approx(distance(0, evaluate(dropped, [x])), rel=1e-6)


def test_a_step_chooses_the_least_so_more_candidates_are_never_worse():
    torch.manual_seed(3)
    module = Transformer(3).double().eval()
    samples = [[_random(2, 6, 12, seed=s)] for s in range(3)]
    graph = compile_graph(module, samples[0][0])
    distance = distance_to(graph, [evaluate(graph, s) for s in samples])
    single = {
        r.add: sum(distance(i, evaluate(without(graph, r.add), s)) for i, s in enumerate(samples))
        for r in residuals(graph)
    }
    (first,) = greedy_order(graph, samples, 1)
    assert first.distance == pytest.approx(min(single.values())) and single[first.add] == min(single.values())


def test_options_are_prefixes_of_one_order_and_the_whole_is_deterministic():
    torch.manual_seed(3)
    module = Transformer(2).double().eval()
    setting = Setting([[_random(2, 6, 12, seed=s)] for s in range(3)])
    graph = compile_graph(module, setting.samples[0][0])
    (offer,) = drop_sublayers.offers(graph, setting)
    assert offer.site == "model" and offer.options == ("1", "2", "3", "4")
    left = [{r.add for r in residuals(graph)}]
    for option in offer.options:
        changed = drop_sublayers.apply(graph, {"model": option}, setting)
        assert changed == drop_sublayers.apply(graph, {"model": option}, setting)
        left.append({r.add for r in residuals(changed)})
        assert left[-1] < left[-2] and len(left[-1]) == len(left[-2]) - 1
    with pytest.raises(UsageError, match="no option '5'"):
        drop_sublayers.apply(graph, {"model": "5"}, setting)
    assert drop_sublayers.offers(graph, Setting()) == ()
    dense = compile_graph(nn.Linear(4, 4), torch.randn(2, 4))
    assert drop_sublayers.offers(dense, Setting([[torch.randn(2, 4)]])) == ()
