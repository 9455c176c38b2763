"""How int8 is rounded: the float function stays, what stays float keeps its weights, and int8 comes nearer."""

import pytest
import torch
from torch import nn

from compiler.compress.apply import apply_plan, calibrate, choose
from compiler.compress.quantize import quantized_nodes
from compiler.compress.quantize_int4 import int4_able, quantize_int4
from compiler.compress.rounding import STEPS, able, gridded, levelled, real, rounding, shaping, steps_of
from compiler.compress.segments import segments
from compiler.compress.weight_grid import Grid
from compiler.compress.weights import renew
from compiler.errors import UsageError
from compiler.evaluate import evaluate
from compiler.frontends.torch_export import import_model
from compiler.ir.edit import Editor
from compiler.passes import PIPELINE
from compiler.plan import Decision, Plan
from compiler.target import INT4, INT8
from targets import get_target

pytestmark = pytest.mark.target
TARGET = get_target("executorch")
SAMPLES = [(torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(s)),) for s in range(8)]


class Uneven(nn.Module):
    """Two convolutions in a row whose channels differ a thousandfold in range, then linear layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(24, 10)
        with torch.no_grad():
            scale = torch.logspace(-1.5, 1.5, 16)
            self.first.weight *= scale[:, None, None, None]
            self.first.bias *= scale
            self.second.weight /= scale[:, None, None]
            self.norm.weight.copy_(torch.logspace(-1, 1, 8))

    def forward(self, x):
        x = self.second(torch.relu(self.first(x))).mean((2, 3))
        return self.down(torch.relu(self.up(self.norm(x))))


@pytest.fixture(scope="module")
def graph():
    torch.manual_seed(0)
    made = import_model(Uneven().eval(), SAMPLES[0])
    for _, run in PIPELINE:
        made = run(made)
    return made


def far(graph, other, samples=SAMPLES):
    pairs = [(evaluate(graph, x)[0].double(), evaluate(other, x)[0].double()) for x in samples]
    error = sum(float((a - b).square().sum()) for a, b in pairs)
    return error / sum(float(a.square().sum()) for a, _ in pairs)


def int8(graph, steps):
    level = levelled(graph, steps, SAMPLES)
    return choose(calibrate(level, TARGET.quantizer, SAMPLES, steps=steps), [n.name for n in graph.ops()])


def test_every_step_is_known_where_it_has_something_to_do(graph):
    everything = [n.name for n in graph.ops()]
    assert able(graph, everything) == ("equalize", "smooth_quant", "gptq")
    assert tuple(s.name for s in STEPS) == ("equalize", "smooth_quant", "gptq", "awq", "int4_gptq")
    assert able(graph, ()) == ("equalize", "smooth_quant") == real(able(graph, everything))
    assert shaping(("gptq", "awq", "int4_gptq"), INT8) == ("gptq", "awq")
    assert shaping(("gptq", "awq", "int4_gptq"), INT4) == ("awq", "int4_gptq")


@pytest.mark.parametrize("steps", [("equalize",), ("smooth_quant",), ("equalize", "smooth_quant")])
def test_levelling_keeps_the_float_function(graph, steps):
    made = levelled(graph, steps, SAMPLES)
    assert made != graph and far(graph, made) < 1e-11
    assert [n.name for n in made.ops()] == [n.name for n in graph.ops()]


def test_equalised_ranges_lose_less_in_int8(graph):
    assert far(graph, int8(graph, ("equalize",))) < 0.2 * far(graph, int8(graph, ()))


def test_gptq_loses_less_to_the_grid_than_the_nearest_codes(graph):
    level = levelled(graph, ("equalize", "smooth_quant"), SAMPLES)
    layers = [n.name for n in level.ops() if n.op in ("aten.conv2d.default", "aten.linear.default")]
    editor = Editor(level)
    for name in layers:
        weight = _weight(level, name)
        renew(editor, level.node(name), {"weight": Grid().nearest(weight.flatten(1)).reshape(weight.shape)})
    assert far(level, gridded(level, ("gptq",), layers, SAMPLES)) < 0.8 * far(level, editor.finish())


def test_what_stays_float_keeps_its_weights(graph):
    assert levelled(graph, ("gptq",), SAMPLES) is graph
    first = segments(graph)[0].nodes
    part = choose(calibrate(graph, TARGET.quantizer, SAMPLES, steps=("gptq",)), first)
    assert quantized_nodes(part) <= first
    for node in graph.ops():
        if node.operand("weight") is not None and node.name not in first:
            assert torch.equal(_weight(part, node.name), _weight(graph, node.name))


def test_only_named_weights_go_on_the_grid(graph):
    made = gridded(graph, ("gptq",), ["linear"], SAMPLES)
    moved = [n.name for n in graph.ops() if graph.constant(n.operand("weight")) is not None]
    moved = [n for n in moved if not torch.equal(_weight(made, n), _weight(graph, n))]
    assert moved == ["linear"]


def test_a_plan_that_rounds_is_replayed(graph):
    steps = ("equalize", "gptq")
    sites = [Decision(s.site, "precision", "int8") for s in segments(graph)]
    plan = Plan((*sites, *rounding(steps)))
    assert steps_of(plan) == steps and rounding(()) == ()
    assert apply_plan(graph, plan, TARGET, SAMPLES) == int8(graph, steps)


class Tokens(nn.Module):
    """A norm with outliers before a gated pair, correlated inputs behind it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.norm, self.up, self.gate = nn.LayerNorm(64), nn.Linear(64, 96), nn.Linear(64, 96)
        self.down = nn.Linear(96, 64)
        with torch.no_grad():
            self.norm.weight[::7] *= 20

    def forward(self, x):
        h = self.norm(x)
        return self.down(nn.functional.silu(self.up(h)) * self.gate(h))


def test_each_step_of_int4_loses_less_than_the_one_before():
    mix = torch.randn(8, 64, generator=torch.Generator().manual_seed(9))
    samples = [(torch.randn(40, 8, generator=torch.Generator().manual_seed(s)) @ mix,) for s in range(6)]
    graph = import_model(Tokens().eval(), samples[0])
    names = int4_able(graph)
    assert able(graph, names, INT4) == ("awq", "int4_gptq") and real(("awq", "int4_gptq")) == ("awq",)

    def lost(*steps):
        level = levelled(graph, steps, samples)
        made = quantize_int4(gridded(level, steps, names, samples, INT4), names, rows=False)
        return far(graph, made, samples)

    assert far(graph, levelled(graph, ("awq",), samples), samples) < 1e-10
    nearest, awq, both = lost(), lost("awq"), lost("awq", "int4_gptq")
    assert both < 0.8 * awq and awq < 0.9 * nearest, (nearest, awq, both)


@pytest.mark.parametrize(
    ("precision", "option", "message"),
    [
        ("int8", "up", "rounds by 'up'; steps are: equalize, smooth_quant, gptq, awq, int4_gptq"),
        ("float32", "equalize", "rounding equalize and puts nothing in int8"),
        ("int8", "equalize+awq", "rounding awq and puts nothing in int4"),
    ],
)
def test_a_rounding_that_cannot_be_is_told(graph, precision, option, message):
    site = segments(graph)[0].site
    plan = Plan((Decision(site, "precision", precision), Decision("model", "rounding", option)))
    with pytest.raises(UsageError, match=message):
        apply_plan(graph, plan, TARGET, SAMPLES)


def _weight(graph, name):
    return graph.constant(graph.node(name).operand("weight"))
