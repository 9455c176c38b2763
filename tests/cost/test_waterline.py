"""Kernels of a graph against the roofline: how they are cut, and what bounds hold."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from compiler.cost.kernel import kernel_call, kernel_of
from compiler.cost.latency_table import Entry, LatencyTable
from compiler.cost.quantized import Quantized
from compiler.cost.roofline import PRIOR
from compiler.cost.waterline import (
    GraphKernel,
    Machine,
    graph_waterline,
    measured_machine,
    measured_times,
    prior_machine,
)
from compiler.frontends.torch_export import import_model
from compiler.ir.edit import Editor
from compiler.ir.graph import TensorType
from compiler.ir.verify import verify
from compiler.records import Metric

MACHINE = Machine({"float32": 8.0, "int8": 32.0}, 2.0)
FLOAT_TYPE, INT8_TYPE = (TensorType((2, 8), d) for d in (torch.float32, torch.int8))
FLOAT_WEIGHT = TensorType((8, 8), torch.float32)


def kernel(operations, moved, precision="float32"):
    return GraphKernel("k", "aten.conv2d.default", "", precision, ("k",), operations, moved)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


def block():
    return import_model(Block().eval(), (torch.randn(1, 4, 6, 6),))


def int8_chain(behind="int8"):
    """x in float32 is quantised, goes through a linear layer in int8 with an activation, then through another."""
    editor = Editor()
    x = editor.input("x", FLOAT_TYPE)
    for index, precision in enumerate(("int8", behind)):
        dtype = torch.int8 if precision == "int8" else torch.float32
        wide = editor.constant(torch.zeros(8, 8, dtype=dtype), f"w{index}")
        if precision == "int8":
            wide = convert(editor, "dequantize", wide, FLOAT_WEIGHT)
            x = convert(editor, "dequantize", quantized(editor, x), FLOAT_TYPE)
        x = editor.op("aten.linear.default", {"input": x, "weight": wide}, [FLOAT_TYPE], f"linear_{index}")
        x = editor.op("aten.relu.default", {"self": x}, [FLOAT_TYPE], f"relu_{index}")
        x = convert(editor, "dequantize", quantized(editor, x), FLOAT_TYPE) if precision == "int8" else x
    editor.output([x])
    graph = editor.finish()
    verify(graph)
    return graph


def quantized(editor, value):
    made = editor.graph.producer(value)
    if made.op.startswith("quantized_decomposed.dequantize"):
        return made.operand("input")  # the value as it is stored
    return convert(editor, "quantize", value, INT8_TYPE)


def convert(editor, kind, value, type_):
    scale = {"scale": 0.1, "zero_point": 0, "quant_min": -128, "quant_max": 127, "dtype": torch.int8}
    op = f"quantized_decomposed.{kind}_per_tensor.default"
    return editor.op(op, {"input": value, **scale}, [type_])


def test_an_activation_is_computed_in_the_kernel_it_follows_and_moves_nothing():
    conv, mean, head = graph_waterline(block())
    assert [n.split("_")[0] for n in conv.nodes] == ["conv2d", "relu"]
    assert conv.bytes == 4 * (4 * 36 + 8 * 4 * 9 + 8 + 8 * 36)  # input, weight, bias, and the output once
    assert conv.operations == 8 * 36 * 4 * 9 + 8 * 36
    assert (conv.module, mean.precision, head.operations) == ("conv", "float32", 40)


def test_a_reshape_is_free_and_what_is_behind_it_reads_what_is_in_front():
    class Flat(nn.Module):
        def forward(self, x):
            return torch.softmax(torch.sin(x).reshape(2, 50), 1)

    sine, softmax = graph_waterline(import_model(Flat().eval(), (torch.randn(10, 10),)))
    assert sine.bytes == softmax.bytes == 2 * 4 * 100


def test_values_that_are_int8_at_rest_move_as_int8():
    kernels = graph_waterline(int8_chain())
    entry, first, second, leave = kernels
    assert [k.precision for k in kernels] == ["float32", "int8", "int8", "float32"]
    assert entry.bytes == leave.bytes == 4 * 16 + 16  # the conversions on the way in and out
    assert first.bytes == second.bytes == 16 + 64 + 16  # input, weight, output, a byte each
    assert first.operations == 16 * 8 + 16


def test_between_formats_the_conversion_is_a_kernel_of_its_own():
    kernels = graph_waterline(int8_chain("float32"))
    assert [k.precision for k in kernels] == ["float32", "int8", "float32", "float32"]
    assert "dequantize" in kernels[2].op
    assert kernels[3].bytes == 4 * (16 + 64 + 16)


def test_a_weight_that_is_int8_at_rest_moves_as_int8_whatever_reads_it():
    editor = Editor()
    x = editor.input("x", FLOAT_TYPE)
    stored = editor.constant(torch.zeros(8, 8, dtype=torch.int8), "w")
    weight = convert(editor, "dequantize", stored, FLOAT_WEIGHT)
    editor.output([editor.op("aten.linear.default", {"input": x, "weight": weight}, [FLOAT_TYPE])])
    (only,) = graph_waterline(editor.finish())
    assert (only.precision, only.bytes) == ("float32", 4 * 16 + 64 + 4 * 16)


def test_attainable_time_is_the_slower_of_arithmetic_and_traffic():
    assert MACHINE.attainable(kernel(800, 10)) == 100
    assert MACHINE.attainable(kernel(800, 10, "int8")) == 25
    assert MACHINE.attainable(kernel(8, 10)) == 5
    assert (MACHINE.bound(kernel(41, 10)), MACHINE.bound(kernel(39, 10))) == ("compute", "bandwidth")
    assert MACHINE.faster(2).attainable(kernel(800, 10)) == 50
    assert MACHINE.faster(2).balance("int8") == MACHINE.balance("int8") == 16


def test_efficiencies_of_kernels_make_up_the_whole_by_their_harmonic_mean():
    kernels = [kernel(4.0, 1e-9), kernel(1.0, 1e-9), kernel(2.0, 1e-9)]
    ideal = [MACHINE.attainable(k) for k in kernels]
    times = [t / c for t, c in zip(ideal, (0.8, 0.1, 0.4), strict=True)]
    whole = MACHINE.total(kernels) / sum(times)
    assert whole == pytest.approx(0.35)
    shares = [t / sum(ideal) for t in ideal]
    assert 1 / whole == pytest.approx(sum(f / c for f, c in zip(shares, (0.8, 0.1, 0.4), strict=True)))


def test_a_prior_has_the_ratios_it_was_given():
    machine = prior_machine(PRIOR)
    assert machine.balance() == PRIOR.macs_per_byte
    assert machine.measured == 0


def table_of(graph, times, **more):
    ops = [n for n in graph.ops()]
    entries = {kernel_of(graph, n).text: Entry(t, 0.9 * t, 1.2 * t) for n, t in zip(ops, times, strict=True)}
    return LatencyTable("d", "t", 1, Metric.WALL, {**entries, **more})


def test_no_measured_kernel_is_faster_than_the_machine_they_make():
    graph = block()
    table = table_of(graph, [900.0, 300.0, 400.0, 70.0])
    machine = measured_machine(table)
    kernels = graph_waterline(graph)
    times = measured_times(graph, kernels, table)
    assert machine.measured == 4
    assert times == (
        1200.0,
        400.0,
        70.0,
    )  # of a convolution and its activation the sum, for no pair was measured
    for k, t in zip(kernels, times, strict=True):
        assert machine.attainable(k) <= 1.2 * t
    assert machine.rates["float32"] == pytest.approx(8 * 36 * 4 * 9 / (1.2 * 900))
    assert machine.rates["int8"] == 4 * machine.rates["float32"]


def test_int8_kernels_are_found_by_the_float_call_they_were_measured_for():
    graph = int8_chain()
    float_call = kernel_of(graph, graph.node("linear_0"))
    weight = dict(float_call.operands)["weight"]
    own = kernel_call(
        "aten.linear.default", dict(float_call.operands) | {"weight": replace(weight, constant=True)}
    )
    table = table_of(
        block(), [900.0, 300.0, 400.0, 70.0], **{Quantized(own, "int8").text: Entry(50.0, 49.0, 51.0)}
    )
    assert measured_times(graph, graph_waterline(graph), table) == (None, 50.0, 50.0, None)
    assert measured_machine(table).measured == 5


def test_without_a_kernel_that_computes_there_is_no_machine():
    assert measured_machine(LatencyTable("d", "t", 1, Metric.WALL, {})) is None
