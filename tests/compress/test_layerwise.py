"""AdaQuant, bias correction and para-normalisation: each layer nearer to what it gave in the original."""

import pytest
import torch
from torch import nn

from compiler.compress.adaquant import Fit, adaquant
from compiler.compress.bias_correction import correct_biases
from compiler.compress.layerwise import Renewal, layerwise, twins
from compiler.compress.para_norm import renormalise
from compiler.compress.track import Track
from compiler.compress.weights import channel_axis, channel_rows, codes_of
from compiler.errors import UsageError
from compiler.evaluate import evaluate
from tests.models.quantised import few_bits, int8, rounded_weights
from tests.models.small import compile_graph


def drawn(*sizes, seed=0):
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """A residual convnet with a grouped convolution, a layer without bias, and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.wide, self.narrow = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = x + self.narrow(torch.relu(self.wide(self.depth(x))))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def samples():
    return [(drawn(8, 3, 6, 6, seed=i) + 0.5,) for i in range(12)]


@pytest.fixture(scope="module")
def graph(samples):
    torch.manual_seed(0)
    return compile_graph(Net().eval(), *samples[0])


@pytest.fixture(scope="module")
def low(graph, samples):
    """The graph in int8 activations and weights of 3 bits."""
    return few_bits(int8(graph, samples), 3)


def layers(graph):
    return [n for n in graph.ops() if n.op in ("aten.conv2d.default", "aten.linear.default")]


def outputs(graph, samples):
    """What each layer gives on all samples."""
    nodes = layers(graph)
    track, found = Track(graph, samples, [n.name for n in nodes]), {}
    for node in nodes:
        track.reach(node.name)
        found[node.name] = torch.cat(track.take(node.value)).double()
    return found


def errors(graph, original, samples):
    ours, wanted = outputs(graph, samples), outputs(original, samples)
    return {name: float((ours[name] - y).square().mean()) for name, y in wanted.items()}


def layer_errors(graph, original, samples):
    """The error each layer has when a fitting rule meets it, layers before it fitted already."""
    seen = {}

    def look(layer):
        pairs = zip(layer.outputs(), layer.wanted, strict=True)
        seen[layer.node.name] = sum(float((y - w).double().square().sum()) for y, w in pairs)

    layerwise(graph, original, samples, look)
    return seen


def test_a_track_of_calls_ends_in_the_graphs_own_results(low, samples):
    for sample, results in zip(samples, Track(low, samples).results(), strict=True):
        assert torch.equal(results[0], evaluate(low, sample)[0])


def test_every_layer_of_a_quantised_graph_has_its_twin(graph, low):
    assert twins(low, graph) == {n.name for n in layers(graph)} and len(layers(graph)) == 5
    assert all(codes_of(low, low.node(n.name)) is not None for n in layers(graph))


def test_adaquant_is_never_above_the_codes_at_hand_and_lowers_what_comes_out(graph, low, samples):
    done = adaquant(low, graph, samples, fit=Fit(steps=60))
    fitted = layer_errors(done, graph, samples)
    assert sum(outcome(done, graph, samples)) < 0.7 * sum(outcome(low, graph, samples))
    before = {}

    def look(layer):  # in front of each layer, with all before it as fitted
        codes = codes_of(low, low.node(layer.node.name))
        pairs = zip(layer.outputs(codes.real(), bias_of(low, layer)), layer.wanted, strict=True)
        before[layer.node.name] = sum(float((y - w).double().square().sum()) for y, w in pairs)

    layerwise(done, graph, samples, look)
    assert all(fitted[name] <= before[name] for name in before)
    assert sum(fitted[name] < before[name] for name in before) >= 4
    for node in layers(done):
        codes = codes_of(done, node)
        assert codes.codes.dtype is torch.int8 and int(codes.codes.abs().max()) <= 3


def bias_of(graph, layer):
    bias = graph.constant(graph.node(layer.node.name).operand("bias"))
    return torch.zeros_like(layer.bias) if bias is None else bias


def outcome(graph, original, samples):
    return [float((evaluate(graph, s)[0] - evaluate(original, s)[0]).square().sum()) for s in samples]


def test_adaquant_leaves_a_layer_without_error(samples):
    graph = compile_graph(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).eval(), drawn(5, 6))
    assert adaquant(graph, graph, [(drawn(5, 6),)]) == graph


def test_adaquant_is_deterministic(graph, low, samples):
    fit = Fit(steps=10)
    assert adaquant(low, graph, samples[:3], fit=fit) == adaquant(low, graph, samples[:3], fit=fit)


def rows(value, node):
    return channel_rows(value, channel_axis(node))


@pytest.mark.parametrize("form", ["codes", "float"])
def test_after_bias_correction_each_channel_has_the_originals_mean(graph, low, samples, form):
    changed = low if form == "codes" else rounded_weights(graph, 3)
    done = correct_biases(changed, graph, samples)
    found, wanted, was = (outputs(g, samples) for g in (done, graph, changed))
    for node in layers(graph):
        mean, target, before = (rows(o[node.name], node).mean(0) for o in (found, wanted, was))
        assert float((mean - target).abs().max()) < 1e-5
        assert float((before - target).abs().max()) > 1e-3
    assert done.node(layers(graph)[1].name).operand("bias") is not None  # it had none


@pytest.mark.parametrize("form", ["codes", "float"])
def test_after_para_normalisation_each_channel_has_the_originals_moments(graph, low, samples, form):
    changed = low if form == "codes" else rounded_weights(graph, 3)
    done = renormalise(changed, graph, samples)
    found, wanted, was = (outputs(g, samples) for g in (done, graph, changed))
    for node in layers(graph):
        (mean, std), (target, spread), (_, before) = (
            (r.mean(0), r.std(0, correction=0))
            for r in (rows(o[node.name], node) for o in (found, wanted, was))
        )
        assert float((mean - target).abs().max()) < 1e-4
        assert float((std - spread).abs().max()) < 1e-4
        assert float((before - spread).abs().max()) > 1e-3
    if form == "codes":
        same = [
            torch.equal(codes_of(done, n).codes, codes_of(low, low.node(n.name)).codes) for n in layers(done)
        ]
        assert all(same)


def test_moments_may_be_those_a_batch_norm_stored(graph, low, samples):
    name = layers(graph)[0].name
    beta, gamma = drawn(8, seed=4).double(), drawn(8, seed=5).double().abs() + 0.2
    done = renormalise(low, graph, samples, {name}, {name: (beta, gamma)})
    found = rows(outputs(done, samples)[name], layers(graph)[0])
    assert torch.allclose(found.mean(0), beta, atol=1e-4)
    assert torch.allclose(found.std(0, correction=0), gamma, atol=1e-4)


@pytest.mark.parametrize("method", [correct_biases, renormalise], ids=lambda m: m.__name__)
def test_nothing_changes_where_nothing_was_changed(graph, samples, method):
    assert method(graph, graph, samples) == graph


def test_a_channel_without_variance_is_not_blown_up():
    x = drawn(40, 6)
    net = nn.Linear(6, 3)
    graph = compile_graph(net.eval(), x)

    def silence(layer):
        return Renewal(weight=layer.weight * torch.tensor([[0.0], [1.0], [1.0]]))

    done = renormalise(layerwise(graph, graph, [(x,)], silence), graph, [(x,)])
    (found,) = evaluate(done, (x,))
    assert torch.isfinite(found).all() and torch.allclose(
        found[:, 0].mean(), evaluate(graph, (x,))[0][:, 0].mean(), atol=1e-5
    )


def test_samples_are_needed(graph):
    with pytest.raises(UsageError, match="at least one"):
        correct_biases(graph, graph, [])
