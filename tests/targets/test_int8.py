"""int8 on every target: static and dynamic, near its graph and the float model, on chosen nodes only."""

import pytest
import torch
from torch import nn

from compiler.compress.apply import apply_plan
from compiler.compress.quantize import ir_filter, quantize_int8, quantized_nodes
from compiler.compress.quantize_dynamic import dynamic_nodes, quantize_dynamic, unwritten_nodes
from compiler.compress.segments import segments
from compiler.errors import UnsupportedModelError
from compiler.evaluate import evaluate
from compiler.ir.text import print_graph
from compiler.plan import Decision, Plan
from compiler.target import INT8, INT8_DYNAMIC
from targets import get_target, list_targets
from tests.targets.test_every_target import Attention

SHAPE = (1, 3, 12, 12)
CENTRED = (-128, 0, 127, 128, 255)  # zero points of a one-sided or a symmetric range


def each_target(**gaps):
    """Every target, the named ones marked with their gap."""
    cases = [pytest.param(get_target(name), marks=gaps.get(name, ()), id=name) for name in list_targets()]
    return pytest.mark.parametrize("target", cases)


NO_DYNAMIC = pytest.mark.notimpl("int8_dynamic for this runtime is not written", raises=UnsupportedModelError)
static = each_target()
dynamic = each_target(tvm=NO_DYNAMIC)


class Net(nn.Module):
    """A clamp, a depthwise convolution, a residual sum, a concatenation, pools and a head.

    The output channels of each weight differ in range by two orders of magnitude.
    """

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6())
        self.wide = nn.Sequential(nn.Conv2d(8, 16, 1), nn.ReLU())
        self.depth = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.narrow = nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(16, 10)
        with torch.no_grad():
            for part in self.modules():
                if isinstance(part, nn.Conv2d | nn.Linear):
                    ranges = torch.logspace(-1.5, 0.5, len(part.weight))
                    part.weight.mul_(ranges.reshape(-1, *(1,) * (part.weight.ndim - 1)))

    def forward(self, x):
        x = self.stem(x)
        y = x + self.narrow(self.depth(self.wide(x)))
        z = nn.functional.max_pool2d(torch.cat([x, y], 1), 2)
        return self.head(z.mean((2, 3)))


def data(count, seed=1):
    """Inputs that are not centred: mean 1, from about -1 to 3."""
    return torch.randn(count, *SHAPE[1:], generator=torch.Generator().manual_seed(seed)) * 0.7 + 1


@pytest.fixture
def graph(imports):
    return imports(Net(), data(1))


def everything(graph):
    return frozenset(n.name for n in graph.ops())


def of_module(graph, *paths):
    return frozenset(n.name for n in graph.ops() if n.origin.split(".")[0] in paths)


def int8(graph, target, names=None):
    names = everything(graph) if names is None else names
    return quantize_int8(graph, names, target.quantizer(ir_filter(names)), [(x,) for x in data(8).split(1)])


def int8_dynamic(graph, target, names=None):
    names = everything(graph) if names is None else names
    quantizer = target.quantizer(ir_filter(names), INT8_DYNAMIC)
    return quantize_dynamic(graph, names, quantizer, target.rounds_rows)


def has_kernel(graph, target):
    """The weighted layers that a target has a dynamic int8 kernel of."""
    return (
        of_module(graph, "head")
        if target.name == "onnxruntime"
        else weighted(graph) - of_module(graph, "depth")
    )


def snr_db(expected, found):
    return 10 * float(torch.log10(expected.square().sum() / (found - expected).square().sum()))


def weighted(graph):
    return {n.name for n in graph.ops() if n.op in ("aten.conv2d.default", "aten.linear.default")}


@static
def test_static_int8_runs_as_its_graph_says(graph, target, lower):
    x, quantized = data(1, seed=5), int8(graph, target)
    original, expected = (evaluate(g, [x])[0] for g in (graph, quantized))
    found = lower(target, quantized).infer(x)[0]
    step = float(expected.max() - expected.min()) / 255
    assert float((found - expected).abs().max()) <= 3 * step
    assert snr_db(original, found) > 28
    assert weighted(graph) <= quantized_nodes(quantized)


@static
def test_static_int8_of_tokens_runs_as_its_graph_says(target, lower, imports):
    x = torch.randn(2, 5, 16) * 2 + 0.5
    graph = imports(Attention(), x)
    names = everything(graph)
    quantized = quantize_int8(graph, names, target.quantizer(ir_filter(names)), [(x,)])
    original, expected = (evaluate(g, [x])[0] for g in (graph, quantized))
    found = lower(target, quantized).infer(x)[0]
    assert snr_db(expected, found) > snr_db(original, expected) > 20


@static
def test_each_output_channel_has_its_scale_and_activations_their_zero(graph, target):
    quantized = int8(graph, target)
    for name in (n for n in graph.constants if n.endswith("weight")):
        stored, scale = (quantized.constants[f"{name}_{part}"].tensor.double() for part in ("int8", "scale"))
        assert float(scale.max() / scale.min()) > 30
        shape = (-1, *(1,) * (stored.ndim - 1))
        error = stored * scale.reshape(shape) - graph.constants[name].tensor.double()
        assert bool((error.abs() <= 0.5001 * scale.reshape(shape)).all())
        assert not quantized.constants[f"{name}_zero_point"].tensor.any()
    [first] = quantized.users("x")
    assert first.operand("zero_point") not in CENTRED and first.operand("scale") < 0.1


@static
def test_only_selected_nodes_are_static_int8(graph, target):
    chosen = of_module(graph, "wide", "depth")
    text = print_graph(int8(graph, target, chosen))
    stored = [line.split()[0] for line in text.splitlines() if " = constant" in line and ": int8[" in line]
    assert stored == ["%wide_0_weight_int8", "%depth_weight_int8"]
    for name in ("stem_0", "narrow", "head"):
        assert f"weight=%{name}_weight, " in text
    for kept in ("%add", "%cat", "%linear"):
        assert f"{kept}_q =" not in text


@dynamic
def test_dynamic_int8_needs_no_data_and_is_near_the_float_model(graph, target, lower):
    x, quantized = data(1, seed=5), int8_dynamic(graph, target)
    lowered = lower(target, quantized)
    assert snr_db(evaluate(graph, [x])[0], lowered.infer(x)[0]) > 28
    wide = evaluate(graph, [100 * x])[0]
    assert snr_db(wide, lowered.infer(100 * x)[0]) > 28, "ranges must be read at each call"
    assert lowered.report["delegates"] == 1 and not lowered.report["outside"]


@dynamic
@pytest.mark.parametrize("shape", [(5, 48), (2, 7, 48), (1, 2, 3, 48)], ids=str)
def test_a_linear_layer_in_dynamic_int8_computes_what_its_graph_says(shape, target, lower, imports):
    torch.manual_seed(6)
    x = torch.randn(shape) * torch.logspace(-1, 2, shape[-2])[:, None] + 0.2  # ranges differ by row
    quantized = int8_dynamic(imports(nn.Linear(48, 40), x), target)
    assert not unwritten_nodes(quantized)
    lowered = lower(target, quantized)
    assert snr_db(evaluate(quantized, [x])[0], lowered.infer(x)[0]) > 80
    assert not lowered.report["outside"]


@dynamic
def test_dynamic_int8_stores_weights_of_what_has_a_kernel(graph, target, lower):
    quantized = int8_dynamic(graph, target)
    assert dynamic_nodes(quantized) == has_kernel(graph, target)
    assert not quantized_nodes(quantized)
    stored = [n for n, c in quantized.constants.items() if c.tensor.dtype is torch.int8]
    assert len(stored) == len(has_kernel(graph, target)) > 0


@dynamic
def test_only_selected_nodes_are_dynamic_int8(graph, target):
    chosen = "head" if target.name == "onnxruntime" else "narrow"
    text = print_graph(int8_dynamic(graph, target, of_module(graph, chosen)))
    assert [line.split()[0] for line in text.splitlines() if ": int8[" in line and "constant" in line] == [
        f"%{chosen}_weight_int8"
    ]
    for name in {"stem_0", "wide_0", "depth", "narrow", "head"} - {chosen}:
        assert f"weight=%{name}_weight, " in text


@dynamic
def test_a_plan_mixes_both(graph, target, lower):
    x, sites = data(1, seed=5), segments(graph)
    options = [INT8 if i <= len(sites) // 2 else INT8_DYNAMIC for i, _ in enumerate(sites)]
    plan = Plan(tuple(Decision(s.site, "precision", o) for s, o in zip(sites, options, strict=True)))
    mixed = apply_plan(graph, plan, target, [[x] for x in data(8).split(1)])
    # `narrow` reads what the static `depth` wrote: it is dynamic all the same.
    last = of_module(graph, "narrow") | of_module(graph, "head")
    assert dynamic_nodes(mixed) == last & has_kernel(graph, target)
    assert quantized_nodes(mixed) >= of_module(graph, "depth")
    assert not any("_dq_" in name for name in mixed.constants)
    assert snr_db(evaluate(mixed, [x])[0], lower(target, mixed).infer(x)[0]) > 28


def test_a_precision_a_target_has_not_is_refused_with_those_it_has(graph):
    target = get_target("tvm")
    plan = Plan((Decision(segments(graph)[0].site, "precision", INT8_DYNAMIC),))
    with pytest.raises(UnsupportedModelError, match=f"'{target.name}' .* int8_dynamic; it has float32, int8"):
        apply_plan(graph, plan, target, ())
