"""Kernels: a text that reads back equal, counts that agree with the graph's, a program of their own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from compiler.cost.counts import node_counts
from compiler.cost.kernel import (
    TensorSpec,
    kernel_call,
    kernel_counts,
    kernel_graph,
    kernel_of,
    output_types,
    parse_kernel,
)
from compiler.errors import UnsupportedModelError, UsageError
from compiler.evaluate import evaluate
from compiler.frontends.torch_export import import_model
from compiler.ir.edit import Editor
from compiler.ir.graph import Kind, TensorType
from compiler.passes import PIPELINE


def data(*shape, dtype="float32"):
    return TensorSpec(shape, dtype, False)


def const(*shape, dtype="float32"):
    return TensorSpec(shape, dtype, True)


DEPTHWISE = {"input": data(1, 96, 28, 28), "weight": const(96, 1, 7, 7), "bias": const(96), "padding": [3, 3]}
TEXT = (
    "aten.conv2d.default(input=float32[1,96,28,28], weight=const float32[96,1,7,7], bias=const float32[96], "
    "stride=[1,1], padding=[3,3], dilation=[1,1], groups=96)"
)


def test_the_text_is_the_documented_key() -> None:
    kernel = kernel_call("aten.conv2d.default", {**DEPTHWISE, "groups": 96})
    assert kernel.text == TEXT
    assert parse_kernel(TEXT) == kernel
    assert list(kernel.tensors()) == [data(1, 96, 28, 28), const(96, 1, 7, 7), const(96)]


def test_defaults_and_the_data_of_weights_do_not_make_another_kernel() -> None:
    spelled = {**DEPTHWISE, "groups": 96, "stride": (1, 1), "dilation": 1, "weight": torch.randn(96, 1, 7, 7)}
    assert kernel_call("aten.conv2d.default", spelled) == parse_kernel(TEXT)
    short = TEXT.replace(", stride=[1,1]", "").replace(", dilation=[1,1]", "")
    assert parse_kernel(short) == parse_kernel(TEXT)


def test_one_and_one_point_zero_are_two_kernels() -> None:
    whole, real = (
        kernel_call("aten.mul.Scalar", {"self": data(3, dtype="int64"), "other": o}) for o in (1, 1.0)
    )
    assert whole != real
    assert [t.dtype for t in output_types(whole)] == [torch.int64]
    assert [t.dtype for t in output_types(real)] == [torch.float32]


SHAPES = st.lists(st.integers(0, 2000), max_size=5).map(tuple)
SPECS = st.builds(
    TensorSpec, SHAPES, st.sampled_from(["float32", "float16", "int8", "bool", "int64"]), st.booleans()
)
SIZES = st.lists(st.integers(-9, 9), max_size=4)
SCALARS = st.one_of(st.integers(-(2**40), 2**40), st.floats(allow_nan=False), st.booleans())
CALLS = st.one_of(
    st.tuples(st.just("aten.add.Tensor"), st.fixed_dictionaries({"self": SPECS, "other": SPECS, "alpha": SCALARS})),
    st.tuples(st.just("aten.gelu.default"), st.fixed_dictionaries({"self": SPECS, "approximate": st.text(max_size=9)})),
    st.tuples(st.just("aten.cat.default"), st.fixed_dictionaries({"tensors": st.lists(SPECS, max_size=4), "dim": st.integers(-9, 9)})),
    st.tuples(st.just("aten.constant_pad_nd.default"), st.fixed_dictionaries({"self": SPECS, "pad": SIZES, "value": SCALARS})),
    st.tuples(st.just("aten.clamp.default"), st.fixed_dictionaries({"self": SPECS, "min": SCALARS}, optional={"max": st.none()})),
    st.tuples(st.just("aten.to.dtype"), st.fixed_dictionaries({"self": SPECS, "dtype": st.sampled_from([torch.float16, torch.int8])})),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(CALLS)
def test_every_kernel_reads_back_from_its_text(call) -> None:
    kernel = kernel_call(*call)
    again = parse_kernel(kernel.text)
    assert again == kernel
    assert again.operands == kernel.operands
    assert [type(o) for _, o in again.operands] == [type(o) for _, o in kernel.operands]
    assert list(again.tensors()) == list(kernel.tensors())


def test_text_in_quotes_is_no_tensor() -> None:
    kernel = kernel_call(
        "aten.gelu.default", {"self": data(2), "approximate": 'float32[3] \\" const int8[1]'}
    )
    assert parse_kernel(kernel.text) == kernel


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("aten.relu.default(self=tensor[1])", "no dtype 'tensor'"),
        ("aten.relu.default(self=float32[1]", r"expected `%name = op"),
        ("aten.nope.default(self=float32[1])", "no operator 'aten.nope.default'"),
        ("aten.relu.default(x=float32[1])", r"no operand \['x'\]"),
        ("aten.linear.default(input=float32[1,2])", "operand 'weight' is missing"),
        ("", "is not a kernel"),
    ],
)
def test_what_cannot_be_read_is_told(text, reason) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_kernel(text)


def test_unknown_and_missing_operands_are_refused() -> None:
    with pytest.raises(KeyError, match="no operand"):
        kernel_call("aten.relu.default", {"self": data(1), "slope": 2})
    with pytest.raises(ValueError, match="'weight' is missing"):
        kernel_call("aten.linear.default", {"input": data(1, 2)})


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.wide = nn.Conv2d(8, 8, (3, 5), groups=4, bias=False)
        self.qkv = nn.Linear(8, 24)

    def forward(self, x):
        x = F.gelu(self.norm(self.stem(x)), approximate="tanh")
        x = torch.cat([x[..., :4], self.wide(F.pad(x, (1, 2, 0, 1)))[..., :4]], 2)
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v) @ v.transpose(1, 2)


@pytest.fixture(scope="module")
def graph():
    torch.manual_seed(1)
    found = import_model(Net().eval(), (torch.randn(1, 3, 12, 16),))
    for _, run in PIPELINE:
        found = run(found)
    return found


def test_a_kernel_costs_what_its_node_costs(graph) -> None:
    counted = {node.op for node in graph.ops()}
    assert {
        "aten.conv2d.default",
        "aten.batch_norm.default",
        "aten.cat.default",
        "aten.linear.default",
    } <= counted
    for node in graph.ops():
        kernel = kernel_of(graph, node)
        assert kernel_counts(kernel) == node_counts(graph, node), node
        assert output_types(kernel) == node.types
        assert parse_kernel(kernel.text) == kernel


def test_weights_are_told_from_data(graph) -> None:
    conv = next(kernel_of(graph, n) for n in graph.ops() if n.op == "aten.conv2d.default")
    assert list(conv.tensors()) == [data(1, 3, 12, 16), const(8, 3, 3, 3), const(8)]


def test_every_kernel_of_a_model_is_a_graph_that_runs_alone(graph) -> None:
    for node in graph.ops():
        alone = kernel_graph(kernel_of(graph, node))
        inputs = [torch.randn(n.type.shape).to(n.type.dtype) for n in alone.inputs()]
        results = evaluate(alone, inputs, torch.float64)
        assert [tuple(r.shape) for r in results] == [t.shape for t in node.types]
        assert all(bool(torch.isfinite(r).all()) for r in results if r.is_floating_point()), node


def test_the_graph_makes_the_call_of_the_kernel() -> None:
    kernel = kernel_call("aten.conv2d.default", {**DEPTHWISE, "groups": 96, "stride": 2})
    alone = kernel_graph(kernel, seed=3)
    assert kernel_of(alone, alone.ops()[0]) == kernel
    x = 1.7 * torch.randn(1, 96, 28, 28, dtype=torch.float64)
    weight, bias = (alone.constants[n.name].tensor.double() for n in alone.nodes() if n.kind is Kind.CONSTANT)
    expected = F.conv2d(x, weight, bias, stride=2, padding=3, groups=96)
    torch.testing.assert_close(evaluate(alone, [x], torch.float64)[0], expected, rtol=1e-12, atol=1e-12)


def test_weights_are_seeded_positive_and_valid_indices() -> None:
    kernel = kernel_call(
        "aten.embedding.default", {"weight": const(7, 4), "indices": const(3, dtype="int64")}
    )
    one, same, other = (kernel_graph(kernel, seed) for seed in (0, 0, 1))
    assert one == same != other
    weight, indices = (c.tensor for c in one.constants.values())
    assert bool((weight > 0).all()) and weight.std() > 0.1
    assert indices.dtype == torch.int64 and not bool(indices.any())


def test_a_tensor_list_and_several_outputs_become_inputs_and_outputs() -> None:
    lists = kernel_graph(
        kernel_call("aten.cat.default", {"tensors": [data(2, 3), const(2, 1), data(2, 2)], "dim": 1})
    )
    assert [n.type.shape for n in lists.inputs()] == [(2, 3), (2, 2)]
    parts = kernel_graph(kernel_call("aten.split.Tensor", {"self": data(5, 2), "split_size": 2}))
    assert [tuple(r.shape) for r in evaluate(parts, [torch.randn(5, 2)])] == [(2, 2), (2, 2), (1, 2)]


def test_a_symbolic_dimension_takes_its_size_in_the_example() -> None:
    class Head(nn.Module):
        def forward(self, x):
            return x.reshape(x.shape[0] * 2, 4)

    batch = torch.export.Dim("batch", min=3, max=64)
    graph = import_model(Head().eval(), (torch.randn(5, 8),), {}, ({0: batch},))
    (node,) = graph.ops()
    assert kernel_of(graph, node).text == "aten.reshape.default(self=float32[5,8], shape=[10,4])"


def test_outputs_that_depend_on_data_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"aten\.nonzero.* no static outputs"):
        kernel_counts(kernel_call("aten.nonzero.default", {"self": data(4)}))
    with pytest.raises(UnsupportedModelError, match="no static outputs"):
        kernel_graph(kernel_call("aten.linear.default", {"input": data(1, 3), "weight": const(4, 5)}))


def test_a_state_is_data_because_it_changes() -> None:
    editor = Editor()
    state = editor.state(torch.randn(2, 3), "cache")
    x = editor.input("x", TensorType((2, 3), torch.float32))
    result = editor.op("aten.add.Tensor", {"self": x, "other": state}, [TensorType((2, 3), torch.float32)])
    editor.output([result])
    graph = editor.finish()
    assert list(kernel_of(graph, graph.ops()[0]).tensors()) == [data(2, 3), data(2, 3)]
