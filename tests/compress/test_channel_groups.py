"""Coupled channels: what is cut gives what zeroed weights give, for each kind of coupling; refusals say why."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compiler.compress.channel_groups import find_channels
from compiler.compress.channel_readers import readers_of, units_read
from compiler.compress.cut_channels import cut, scaled
from compiler.evaluate import evaluate
from compiler.ir.edit import Editor
from compiler.ir.graph import TensorType, Value
from tests.models.small import ConvNorm, Function, compile_graph, randomize

CONV = {"kernel_size": 3, "padding": 1}


def _image(channels=3, size=6):
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1))


def _tokens(width=12, length=5):
    return torch.randn(2, length, width, generator=torch.Generator().manual_seed(1))


def _residual(x, stem, one, two, head):
    x = stem(x).relu()
    return head(x + two(one(x).relu()))


def _excite(x, stem, squeeze, expand, head):
    x = F.gelu(stem(x))
    return head(x * expand(squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid())


def _dense_net(x, stem, one, norm, head):
    x = stem(x).relu()
    return head(norm(torch.cat([x, one(x)], 1)).relu())


def _gated_halves(x, first, last):
    value, gate = first(x).chunk(2, 1)
    return last(value * gate.sigmoid())


def _unequal_halves(x, first, one, two):
    small, large = first(x).split([4, 8], 1)
    return one(small) + two(large.relu())


def _shuffle(x, one, grouped, last):
    x = one(x).relu()
    n, c, h, w = x.shape
    x = x.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
    return last(grouped(x))


def _flattened(x, conv, head):
    return head(F.max_pool2d(conv(x).relu(), 2).flatten(1))


def _fused(x, qkv, out):
    n, t, _ = x.shape
    q, k, v = qkv(x).reshape(n, t, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
    return out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, 12))


def _grouped_queries(x, query, key, value, out):
    n, t, _ = x.shape
    q = query(x).reshape(n, t, 6, 2).transpose(1, 2)
    k, v = (layer(x).reshape(n, t, 3, 2).transpose(1, 2) for layer in (key, value))
    k, v = (y[:, :, None].expand(n, 3, 2, t, 2).reshape(n, 6, t, 2) for y in (k, v))
    return out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, 12))


def _gqa(x, query, key, value, out):
    n, t, _ = x.shape
    q = query(x).reshape(n, t, 6, 2).transpose(1, 2)
    k, v = (layer(x).reshape(n, t, 3, 2).transpose(1, 2) for layer in (key, value))
    y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    return out(y.transpose(1, 2).reshape(n, t, 12))


def _spelt_out(x, query, key, value, out):
    n, t, _ = x.shape
    q, k, v = (layer(x).reshape(n, t, 4, 3).transpose(1, 2) for layer in (query, key, value))
    weights = (q @ k.transpose(-2, -1) / 3**0.5).softmax(-1)
    return out((weights @ v).transpose(1, 2).reshape(n, t, 12))


def _one_head(x, value, out):
    return out(F.scaled_dot_product_attention(x, x, value(x)))


def _rotary(x, query, key, value, out):
    n, t, _ = x.shape
    q, k, v = (layer(x).reshape(n, t, 3, 4).transpose(1, 2) for layer in (query, key, value))
    angle = torch.arange(t * 2, dtype=x.dtype).reshape(t, 2)
    cos, sin = torch.cat([angle.cos()] * 2, 1), torch.cat([angle.sin()] * 2, 1)
    q, k = (y * cos + torch.cat([-y[..., 2:], y[..., :2]], -1) * sin for y in (q, k))
    return out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, 12))


def _twice(x, first, shared, last):
    return last(shared(shared(first(x).relu()).relu()))


def _mixed_tokens(x, first, tokens, back, last):
    x = first(x)
    return last(x + back(tokens(x.transpose(1, 2)).relu()).transpose(1, 2))


def _tied(ids, table, first, second):
    x = table(ids)
    return F.linear(x + second(first(x).relu()), table.weight)


def _looked_up(ids, table, first, second, last):
    x = table(ids)
    return last(x + second(first(x).relu()))


class _Position(nn.Module):
    """A class token joined in front, and a table of positions added."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(12, 8), nn.Linear(8, 5)
        self.token, self.table = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 6, 8))

    def forward(self, x):
        x = torch.cat([self.token.expand(len(x), 1, 8), self.first(x)], 1)
        return self.last((x + self.table)[:, 0])


def _net(function, *layers):
    return Function(function, *layers)


KINDS = {
    "a chain of convolutions": (lambda: nn.Sequential(nn.Conv2d(3, 8, **CONV), nn.ReLU(), nn.Conv2d(8, 5, 3, 2, 1)), _image, 1),
    "a residual stream": (lambda: _net(_residual, ConvNorm(3, 8, **CONV), ConvNorm(8, 6, **CONV), nn.Conv2d(6, 8, 1), nn.Conv2d(8, 4, 1)), _image, 2),
    "a depthwise convolution with two outputs a channel": (lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 12, **CONV, groups=6), nn.BatchNorm2d(12), nn.Hardswish(), nn.Conv2d(12, 4, 1)), _image, 1),
    "a convolution in groups": (lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.SiLU(), nn.Conv2d(8, 12, **CONV, groups=2), nn.PReLU(12), nn.Conv2d(12, 4, 1)), _image, 2),
    "squeeze and excite": (lambda: _net(_excite, nn.Conv2d(3, 8, **CONV), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 3, 1)), _image, 2),
    "a concatenation under a norm": (lambda: _net(_dense_net, nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, **CONV), nn.BatchNorm2d(10), nn.Conv2d(10, 3, 1)), _image, 2),
    "two halves, one the gate of the other": (lambda: _net(_gated_halves, nn.Conv2d(3, 12, 1), nn.Conv2d(6, 4, 1)), _image, 1),
    "two halves of their own": (lambda: _net(_unequal_halves, nn.Conv2d(3, 12, 1), nn.Conv2d(4, 3, 1), nn.Conv2d(8, 3, 1)), _image, 1),
    "a channel shuffle": (lambda: _net(_shuffle, nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, **CONV, groups=2), nn.Conv2d(8, 3, 1)), _image, 2),
    "a flattened map": (lambda: _net(_flattened, nn.Conv2d(3, 8, **CONV), nn.Linear(72, 5)), _image, 1),
    "a transposed convolution": (lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.ConvTranspose2d(6, 4, 2, 2), nn.ReLU(), nn.Conv2d(4, 2, 1)), _image, 2),
    "an instance norm": (lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.GroupNorm(6, 6), nn.Conv2d(6, 4, 1)), _image, 1),
    "one-dimensional convolutions": (lambda: nn.Sequential(nn.Conv1d(5, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 1)), lambda: _tokens(12, 5), 1),
    "a feed-forward layer": (lambda: nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 12)), _tokens, 1),
    "heads of one layer": (lambda: _net(_fused, nn.Linear(12, 36), nn.Linear(12, 12)), _tokens, 1),
    "heads that share keys": (lambda: _net(_gqa, nn.Linear(12, 12), nn.Linear(12, 6), nn.Linear(12, 6), nn.Linear(12, 12)), _tokens, 1),
    "heads with repeated keys": (lambda: _net(_grouped_queries, nn.Linear(12, 12), nn.Linear(12, 6), nn.Linear(12, 6), nn.Linear(12, 12)), _tokens, 1),
    "attention spelt out": (lambda: _net(_spelt_out, *(nn.Linear(12, 12) for _ in range(4))), _tokens, 1),
    "rotary embeddings": (lambda: _net(_rotary, *(nn.Linear(12, 12) for _ in range(4))), _tokens, 1),
    "values of one head": (lambda: _net(_one_head, nn.Linear(12, 8), nn.Linear(8, 4)), _tokens, 1),
    "a layer called twice": (lambda: _net(_twice, nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 3)), _tokens, 1),
    "layers over tokens": (lambda: _net(_mixed_tokens, nn.Linear(12, 8), nn.Linear(5, 6), nn.Linear(6, 5), nn.Linear(8, 4)), _tokens, 2),
    "a table": (lambda: _net(_looked_up, nn.Embedding(9, 8), nn.Linear(8, 6), nn.Linear(6, 8), nn.Linear(8, 3)), lambda: torch.tensor([[1, 8, 3]]), 2),
    "a table that is read again": (lambda: _net(_tied, nn.Embedding(9, 8), nn.Linear(8, 6), nn.Linear(6, 8)), lambda: torch.tensor([[1, 8, 3]]), 2),
    "a class token and positions": (_Position, _tokens, 1),
}  # fmt: skip


def _graph(make, call):
    torch.manual_seed(0)
    return compile_graph(randomize(make()), call)


def _masks(channels, seed=0):
    """Yield one mask for each group, with about half of each kind of unit, and one of all groups."""
    generator = np.random.default_rng(seed)
    every = np.ones(channels.count, bool)
    for group in channels.offered():
        alone = np.ones(channels.count, bool)
        for kind in np.unique(group.kinds):
            own = group.units[group.kinds == kind]
            alone[generator.permutation(own)[: len(own) // 2]] = False
        every &= alone
        yield [group], alone
    yield list(channels.offered()), every


@pytest.mark.parametrize("kind", KINDS)
def test_cut_is_masked(kind):
    make, call, count = KINDS[kind]
    call = call()
    graph = _graph(make, call)
    channels = find_channels(graph)
    assert len(channels.offered()) == count, [(g.site, g.reason) for g in channels.groups]
    (dense,) = evaluate(graph, [call], torch.float64)
    for groups, kept in _masks(channels):
        factors = {
            r: torch.from_numpy(kept[units_read(graph, channels, r)]).double() for r in readers_of(groups)
        }
        (wanted,) = evaluate(scaled(graph, factors), [call], torch.float64)
        smaller = cut(graph, channels, kept)
        (found,) = evaluate(smaller, [call], torch.float64)
        scale = float(dense.abs().max())
        assert float((wanted - dense).abs().max()) > 1e-3 * scale
        assert float((found - wanted).abs().max()) < 1e-9 * scale
        assert [n.name for n in smaller.ops()] == [n.name for n in graph.ops()]
        assert all(_elements(smaller, s) < _elements(graph, s) for g in groups for s in g.sources)


def _elements(graph, name):
    return graph.type_of(graph.node(name).operand("weight")).elements()


@pytest.mark.parametrize("kind", ["a residual stream", "heads of one layer"])
def test_nothing_cut_is_the_same_graph(kind):
    make, call, _ = KINDS[kind]
    graph = _graph(make, call())
    channels = find_channels(graph)
    assert cut(graph, channels, np.ones(channels.count, bool)) == graph


def test_a_norm_over_channels_normalises_what_is_left():
    graph = _graph(lambda: nn.Sequential(nn.Linear(12, 8), nn.LayerNorm(8), nn.Linear(8, 3)), _tokens())
    channels = find_channels(graph)
    (group,) = channels.offered()
    kept = np.ones(channels.count, bool)
    kept[group.units[::2]] = False
    smaller = cut(graph, channels, kept)
    first, norm, last = (n for n in smaller.ops())
    assert norm.operand("normalized_shape") == (4,)
    stored = [smaller.constant(n.operand(k)) for n in (first, norm, last) for k in ("weight", "bias")]
    x = F.layer_norm(F.linear(_tokens(), *stored[:2]), (4,), *stored[2:4], norm.operand("eps"))
    assert torch.allclose(F.linear(x, *stored[4:]), evaluate(smaller, [_tokens()])[0], atol=1e-6)


REFUSED = {
    "a result": (lambda: nn.Conv2d(3, 8, 1), "it is a result of the model", "aten.conv2d.default"),
    "an input": (lambda: Function(lambda x, a, b: b(x + a(x)), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)), "add puts it together with 'x', which cannot be cut", "aten.add.Tensor"),
    "a softmax": (lambda: Function(lambda x, a, b: b(a(x).softmax(1)), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)), "softmax needs all of it", "aten.softmax.int"),
    "a mean of channels": (lambda: Function(lambda x, a: a(x).mean(1), nn.Conv2d(3, 8, 1)), "mean needs all of it", "aten.mean.dim"),
    "a part taken by number": (lambda: Function(lambda x, a, b: b(a(x)[:, 3:4].relu()), nn.Conv2d(3, 8, 1), nn.Conv2d(1, 2, 1)), "nothing would be left for conv2d to read", "aten.conv2d.default"),
    "queries of one head": (lambda: Function(lambda x, a, b: b(F.scaled_dot_product_attention(*[a(x.flatten(2))] * 3)), nn.Linear(36, 8), nn.Linear(8, 2)), "queries and keys are compared over it", "aten.scaled_dot_product_attention.default"),
    "a Gram matrix": (lambda: Function(lambda x, a, b: b(a(x.flatten(2)) @ a(x.flatten(2)).transpose(1, 2)), nn.Linear(36, 8), nn.Linear(3, 2)), "a product of two computed matrices sums over it", "aten.matmul.default"),
    "a sort": (lambda: Function(lambda x, a, b: b(a(x).sort(1)[0]), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)), "sort needs all of it", "aten.sort.default"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refused_group_says_why_and_where(kind):
    make, reason, op = REFUSED[kind]
    graph = _graph(make, _image())
    groups = find_channels(graph).groups
    found = [(g.reason, graph.node(g.node).op) for g in groups if g.reason]
    assert any(reason in why and where == op for why, where in found), found


def test_sites_are_modules_and_differ():
    graph = _graph(KINDS["a residual stream"][0], _image())
    sites = [g.site for g in find_channels(graph).groups]
    assert sites == ["channels:layers.0.0", "channels:layers.1.0", "channels:layers.3"]


def _chain(length):
    """Return a stack of residual convolutions, written by hand: export takes longer than what is tested."""
    editor = Editor()
    x = editor.input("x", TensorType((1, 8, 2, 2), torch.float32))
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(8, 8, 1, 1, generator=generator) for _ in range(length)]

    def conv(value, weight):
        stored = editor.constant(weight, "weight")
        return editor.op(
            "aten.conv2d.default",
            {"input": value, "weight": stored},
            [TensorType((1, 8, 2, 2), torch.float32)],
        )

    value = conv(x, weights[0])
    for weight in weights[1:]:
        inner = editor.op("aten.relu.default", {"self": conv(value, weight)}, [editor.graph.type_of(value)])
        value = editor.op(
            "aten.add.Tensor", {"self": value, "other": conv(inner, weight)}, [editor.graph.type_of(value)]
        )
    last = conv(value, weights[0])
    editor.output([last])
    return editor.finish()


def test_work_is_linear_in_a_long_graph(monkeypatch):
    """Counted in solutions and in atoms handled, not in seconds."""
    import compiler.compress.channel_groups as module

    handled = []
    original = module._components

    def counting(count, ties):
        ties = list(ties)
        handled.append(count + sum(len(t[0]) for t in ties))
        return original(count, ties)

    monkeypatch.setattr(module, "_components", counting)
    sums = []
    for length in (50, 400):
        handled.clear()
        graph = _chain(length)
        assert len(find_channels(graph).offered()) == length
        assert len(handled) == 2
        sums.append(sum(handled) / length)
    assert sums[1] < 1.1 * sums[0]


def test_a_value_knows_the_units_of_its_channels():
    graph = _graph(KINDS["a concatenation under a norm"][0], _image())
    channels = find_channels(graph)
    joined = next(n for n in graph.ops() if n.op == "aten.cat.default")
    (axis,) = channels.axes[Value(joined.name)]
    first, second = (g.units for g in channels.offered())
    assert axis.dims == (1,)
    assert axis.atoms.tolist() == [*first.tolist(), *second.tolist()]
