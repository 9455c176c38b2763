"""Stitches: the fit is least squares, exact where it can be, refused on too few rows, and joins two graphs."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compiler.compress import stitch
from compiler.compress.cuts import cuts
from compiler.compress.decision import Setting
from compiler.errors import UsageError
from compiler.evaluate import evaluate
from compiler.ir.verify import verify
from tests.models.small import ConvNorm, Function, compile_graph, merged, randomize


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def test_the_residual_is_orthogonal_to_what_leaves_and_its_ones():
    x, y = _random(400, 24) * 3 + 1, _random(400, 17, seed=1)
    weight, bias = stitch.fit(x, y, 0.0)
    residual = y - x @ weight.T - bias
    scale = float(x.abs().max() * y.abs().max()) * 400
    assert float((x.T @ residual).abs().max()) < 1e-8 * scale
    assert float(residual.sum(0).abs().max()) < 1e-8 * 400


def test_an_affine_image_is_carried_over_exactly():
    x, matrix, shift = _random(400, 24), _random(24, 17, seed=1), _random(17, seed=2)
    weight, bias = stitch.fit(x, x @ matrix + shift, 0.0)
    assert float((x @ weight.T + bias - x @ matrix - shift).abs().max()) < 1e-10


def test_as_many_rows_as_columns_fit_perfectly_and_generalise_badly():
    truth, noise = _random(24, 8), 0.2
    new, errors = _random(500, 24, seed=9), []
    for count in (25, 240):
        x = _random(count, 24, seed=1)
        weight, bias = stitch.fit(x, x @ truth + noise * _random(count, 8, seed=2), 0.0)
        errors.append(float((new @ weight.T + bias - new @ truth).norm() / (new @ truth).norm()))
    assert errors[0] > 5 * errors[1]


class Stream(nn.Module):
    """A residual stream over tokens; `turned` gives the same function on a turned stream."""

    def __init__(self, width, blocks, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = nn.Linear(6, width), nn.Linear(width, 5)
        self.up = nn.ModuleList(nn.Linear(width, 16) for _ in range(blocks))
        self.down = nn.ModuleList(nn.Linear(16, width) for _ in range(blocks))

    def forward(self, x):
        h = self.first(x)
        for up, down in zip(self.up, self.down, strict=True):
            h = h + down(F.relu(up(h)))
        return self.last(h)

    def turned(self, matrix):
        other = Stream(len(matrix), len(self.up)).double()
        other.load_state_dict(self.state_dict())
        back = torch.linalg.inv(matrix)
        with torch.no_grad():
            for layer in (other.first, *other.down):
                layer.weight.copy_(matrix @ layer.weight)
                layer.bias.copy_(matrix @ layer.bias)
            for layer in (other.last, *other.up):
                layer.weight.copy_(layer.weight @ back)
        return other


SAMPLES = [[_random(2, 40, 6, seed=s)] for s in range(3)]


def test_a_turned_copy_is_joined_without_loss_at_every_point(monkeypatch):
    monkeypatch.setattr(stitch, "RIDGE", 0.0)
    module = Stream(8, 4).double()
    graph = compile_graph(module, SAMPLES[0][0])
    donor = compile_graph(module.turned(_random(8, 8, seed=3)), SAMPLES[0][0])
    setting = Setting(SAMPLES, donor=donor)
    (offer,) = stitch.offers(graph, setting)
    assert {o.partition(":")[0] for o in offer.options} == {"leave", "enter", "detour"}
    for option in offer.options:
        changed = stitch.apply(graph, {"model": option}, setting)
        verify(changed)
        assert sum(n.name.startswith("stitch") for n in changed.ops()) == (2 if "detour" in option else 1)
        for sample in SAMPLES:
            assert torch.allclose(evaluate(changed, sample)[0], evaluate(graph, sample)[0], rtol=0, atol=1e-9)


def test_a_smaller_donor_takes_over_part_of_the_work():
    graph = compile_graph(Stream(8, 4).double(), SAMPLES[0][0])
    donor = compile_graph(Stream(6, 2, seed=1).double(), SAMPLES[0][0])
    setting = Setting(SAMPLES, donor=donor)
    (offer,) = stitch.offers(graph, setting)
    for option in offer.options:
        changed = stitch.apply(graph, {"model": option}, setting)
        verify(changed)
        names = {n.name for n in changed.ops()}
        assert any(n.startswith("donor_") for n in names) and any(n in graph for n in names)
        assert changed == stitch.apply(graph, {"model": option}, setting)
    kept = [
        len([n for n in stitch.apply(graph, {"model": o}, setting).ops() if n.name in graph])
        for o in offer.options
    ]
    assert kept[0] > kept[-1]


def test_pictures_are_stitched_by_a_pointwise_convolution():
    def net(width, seed):
        torch.manual_seed(seed)
        layers = [
            ConvNorm(3, width, 3, padding=1, stride=2),
            nn.ReLU(),
            ConvNorm(width, width, 3, padding=1),
            nn.ReLU(),
        ]
        return randomize(nn.Sequential(*layers, nn.Conv2d(width, 4, 1)), seed)

    samples = [[_random(1, 3, 16, 16, seed=s)] for s in range(3)]
    graph, donor = (merged(net(w, s), samples[0][0])[0] for w, s in ((12, 0), (6, 1)))
    setting = Setting(samples, donor=donor)
    (offer,) = stitch.offers(graph, setting)
    changed = stitch.apply(graph, {"model": offer.options[0]}, setting)
    verify(changed)
    (made,) = (n for n in changed.ops() if n.name == "stitch")
    assert made.op == "aten.conv2d.default"
    assert changed.type_of(changed.output.operands[0][1]) == graph.type_of(graph.output.operands[0][1])


def test_too_few_rows_another_signature_or_no_donor_offer_nothing():
    graph = compile_graph(Stream(8, 4).double(), SAMPLES[0][0])
    donor = compile_graph(Stream(6, 2, seed=1).double(), SAMPLES[0][0])
    few = Setting([[SAMPLES[0][0]]], donor=donor)  # 80 rows: enough for 8 columns
    assert stitch.offers(graph, few)
    wide = compile_graph(Stream(9, 4).double(), SAMPLES[0][0])
    (offer,) = stitch.offers(wide, few)
    assert all(o.startswith("enter") for o in offer.options)  # 9 columns cannot leave on 80 rows
    with pytest.raises(UsageError, match="no option 'leave:1'"):
        stitch.apply(wide, {"model": "leave:1"}, few)
    assert stitch.offers(graph, Setting(SAMPLES)) == ()
    assert stitch.offers(graph, Setting((), donor=donor)) == ()
    other = compile_graph(nn.Linear(6, 3).double(), SAMPLES[0][0])
    assert stitch.offers(graph, Setting(SAMPLES, donor=other)) == ()


def test_cuts_are_where_all_data_goes_through():
    def forward(x, a, b, c):
        y = a(x)
        z = F.relu(b(y)) + y
        return c(z), z.sum()

    module = Function(forward, nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)).double()
    graph = compile_graph(module, _random(2, 4))
    assert [graph.producer(v).op.split(".")[1] for v in cuts(graph)] == ["linear", "add"]
