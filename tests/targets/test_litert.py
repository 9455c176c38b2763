"""What is LiteRT's own: signatures, types of 32 bits, int8 at its borders, what XNNPACK takes."""

import copy
import json

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import nn

import edgewright
from compiler.compress.quantize import ir_filter, quantize_int8
from compiler.compress.quantize_dynamic import quantize_dynamic
from compiler.errors import UnsupportedModelError
from compiler.evaluate import evaluate
from compiler.ir.constants import constant_bytes
from compiler.plan import Decision, Plan
from compiler.target import INT8_DYNAMIC
from targets import get_target
from targets.litert import lower as lowering
from targets.litert.legalise import legalise
from targets.litert.origins import origin
from tests.targets.conftest import PROFILE
from tests.targets.functions import Tokens, X, imported, tokens

TARGET = get_target("litert")
SIZES = {"forward_t1": 1, "forward_t5": 5}


@pytest.fixture
def program(imports, lower_methods):
    torch.manual_seed(1)
    model = Tokens().eval()
    graphs = {name: imports(copy.deepcopy(model), tokens(size)) for name, size in SIZES.items()}
    return lower_methods(TARGET, graphs)


def test_each_method_is_a_signature_that_runs_at_its_own_size(program):
    for name, size in SIZES.items():
        assert program[name].error(tokens(size)) < 1e-5
        assert program[name].infer(tokens(size))[0].shape == (1, size, 32)


def test_constants_of_equal_content_are_stored_once(program, lower):
    report = program["forward_t1"].report
    stored = constant_bytes([program["forward_t1"].graph])
    alone = sum(lower(TARGET, p.graph).report["program_bytes"] for p in program.values())
    assert 0.5 * stored < report["shared_bytes"] < 1.1 * stored
    assert abs(alone - report["program_bytes"] - report["shared_bytes"]) < 0.1 * stored


def test_each_method_is_counted_by_itself(program):
    report = program["forward_t1"].report
    methods = report["methods"].values()
    assert all(m["delegates"] and m["delegated_ops"] for m in methods)
    assert report["delegated_ops"] == sum(m["delegated_ops"] for m in methods)
    assert {row["method"] for row in report["outside"]} <= set(SIZES)


def test_wide_integers_stay_wide_at_the_borders(imports, lower):
    class Plus(nn.Module):
        def forward(self, x):
            return x + 1

    big = torch.tensor([2**40, -(2**35)])
    assert torch.equal(lower(TARGET, imports(Plus(), big)).infer(big)[0], big + 1)


def test_an_int8_program_takes_and_returns_int8(imports, lower):
    x = torch.randn(2, 4, 8, 8)
    graph = imports(nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)), x)
    names = frozenset(n.name for n in graph.ops())
    quantized = quantize_int8(graph, names, TARGET.quantizer(ir_filter(names)), [(x,)])
    lowered = lower(TARGET, quantized)
    assert set(lowered.report["operations"]) == {"TRANSPOSE", "CONV_2D"}, "no float kernel is left"
    assert lowered.report["program_bytes"] < 0.6 * lower(TARGET, graph).report["program_bytes"] + 3000
    got, expected = lowered.infer(x)[0], evaluate(quantized, [x])[0]
    assert (got - expected).abs().max() < 0.02 * expected.abs().max()


def test_only_selected_nodes_are_quantized(imports):
    x = torch.randn(2, 4, 8, 8)
    graph = imports(nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)), x)
    convolutions = [n.name for n in graph.ops() if "conv2d" in n.op]
    quantized = quantize_int8(graph, convolutions[1:], TARGET.quantizer(ir_filter(convolutions[1:])), [(x,)])
    assert [c.tensor.dtype for c in quantized.constants.values()].count(torch.int8) == 1


@pytest.mark.parametrize("chosen", [{"conv2d"}, {"conv2d_1"}, {"conv2d", "conv2d_1"}])
def test_dynamic_weights_of_the_file_are_those_of_the_graph(chosen, imports, lower):
    x = torch.randn(2, 4, 8, 8)
    graph = imports(nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)), x)
    quantized = quantize_dynamic(graph, chosen, TARGET.quantizer(ir_filter(chosen), INT8_DYNAMIC), True)
    lowered = lower(TARGET, quantized)
    interpreter = Interpreter(model_path=str(lowered.folder / "model.tflite"))
    stored = [t for t in interpreter.get_tensor_details() if t["dtype"] is np.int8]
    expected = [c.tensor for c in quantized.constants.values() if c.tensor.dtype is torch.int8]
    assert len(stored) == len(expected) == len(chosen) and not lowered.report["outside"]
    for codes in expected:
        [tensor] = [t for t in stored if t["shape"][0] == len(codes)]
        read = torch.from_numpy(interpreter.get_tensor(tensor["index"]))
        assert torch.equal(read, codes.movedim(1, -1))


def test_legalising_keeps_what_an_int8_graph_computes(imports):
    x = torch.randn(2, 4, 8, 8)
    graph = imports(nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)), x)
    names = frozenset(n.name for n in graph.ops())
    quantized = quantize_int8(graph, names, TARGET.quantizer(ir_filter(names)), [(x,)])
    legal = legalise(quantized)
    assert not any(c.tensor.dtype is torch.int8 for c in legal.constants.values())
    assert torch.equal(evaluate(legal, [x])[0], evaluate(quantized, [x])[0])


@pytest.mark.parametrize("times", [(1, 2, 1, 1), (2, 1, 3, 1, 1), (1, 1, 1, 1)])
def test_legalising_a_repeat_keeps_what_it_computes(times):
    graph = imported(lambda m, x: x.repeat(times) * 2)
    legal = legalise(graph)
    assert not any(n.op == "aten.repeat.default" for n in legal.ops())
    x = torch.randn(X)
    assert torch.equal(evaluate(legal, [x])[0], evaluate(graph, [x])[0])


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1, "output_padding": 1, "stride": 2, "groups": 2},
        {"padding": (1, 2), "stride": (2, 1), "dilation": 2},
        {"groups": 3, "bias": False},
    ],
)
def test_legalising_a_transposed_convolution_keeps_what_it_computes(options, imports):
    x = torch.randn(X)
    graph = imports(nn.ConvTranspose2d(6, 6, 3, **options), x)
    legal = legalise(graph)
    calls = [n for n in legal.ops() if "conv_transpose2d" in n.op]
    assert len(calls) == options.get("groups", 1) and not any(any(n.operand("padding")) for n in calls)
    got, expected = (evaluate(g, [x], torch.float64)[0] for g in (legal, graph))
    assert (got - expected).abs().max() < 1e-12


def test_an_operation_s_tensor_tells_its_node():
    graph = imported(lambda m, x: m.conv(x).relu())
    assert origin("a.TracedGraph/b._Step_at_conv2d;3", graph) == "conv2d"
    assert origin("a.TracedGraph/b._Step_at_conv2d_1;", graph) == "conv2d_1"
    assert origin("serving_output_0_output", graph) == graph.output.operands[0][1].node
    assert origin("arith.constant", graph) == ""


def test_weights_that_no_file_can_hold_are_refused_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setattr(lowering, "LARGEST", 100)
    with pytest.raises(UnsupportedModelError, match="one flatbuffer holds at most 100"):
        TARGET.lower({"forward": imported(lambda m, x: m.conv(x))}, PROFILE, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_document_beside_the_program_says_how_to_call_it(lower):
    lowered = lower(TARGET, imported(lambda m, x: m.conv(x)))
    document = json.loads((lowered.folder / "io.json").read_text())
    [call] = document["methods"].values()
    assert [spec["dtype"] for spec in call["inputs"] + call["outputs"]] == ["float32", "float32"]
    assert np.prod(call["inputs"][0]["shape"]) == np.prod(X)


def test_a_plan_that_quantizes_is_compiled_and_verified(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

        def forward(self, x):
            return self.head(self.conv(x).relu().mean((2, 3)))

    x = torch.randn(1, 3, 8, 8)
    plan = Plan((Decision("segment:conv", "precision", "int8"),))
    artifact = edgewright.compile(
        Net().eval(), "host", "litert", plan, x, tmp_path / "out", calibration=[(x,)]
    )
    check = artifact.manifest["verification"]
    assert check["passed"] and check["runtime"] == "litert"
    assert "int8" in (artifact.folder / "graph_forward.txt").read_text()
