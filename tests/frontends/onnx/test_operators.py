"""Operators beside ONNX Runtime, where versions, ranks, defaults and types make the difference."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compiler.errors import UnsupportedModelError
from compiler.evaluate import evaluate
from compiler.frontends.onnx import onnx_module
from edgewright.models.load import load_model
from edgewright.stages import canonicalise

pytestmark = pytest.mark.target

F = np.float32


def model(nodes, inputs, outputs, weights=None, opset=17):
    """Return a model; outputs are names, of any shape."""
    kinds = {
        np.dtype(F): TensorProto.FLOAT,
        np.dtype(np.int32): TensorProto.INT32,
        np.dtype(np.int64): TensorProto.INT64,
    }
    given = [helper.make_tensor_value_info(n, kinds[a.dtype], list(a.shape)) for n, a in inputs.items()]
    made = [
        onnx.ValueInfoProto(name=n) if n.startswith("?") else helper.make_empty_tensor_value_info(n)
        for n in outputs
    ]
    stored = [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()]
    graph = helper.make_graph(nodes, "net", given, made, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def rand(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(F)


def node(op, inputs, outputs=("y",), **attributes):
    return helper.make_node(op, list(inputs), list(outputs), **attributes)


def recurrent(op, gates, activations, alpha, beta, size=3):
    weights = {"w": rand(1, gates * size, 2, seed=1), "r": rand(1, gates * size, size, seed=2)}
    settings = {"activations": activations, "hidden_size": size}
    settings |= {k: v for k, v in (("activation_alpha", alpha), ("activation_beta", beta)) if v}
    return [node(op, ["x", "w", "r"], ("y",), **settings)], {"x": rand(4, 1, 2)}, weights


ROIS = np.array([[0, 0, 4, 4], [1, 2, 5, 7]], F)
CASES = {
    "roi_align before it had a mode": (
        [node("RoiAlign", ["x", "rois", "batch"], output_height=2, output_width=2, sampling_ratio=2)],
        {"x": rand(1, 2, 8, 8), "rois": ROIS, "batch": np.zeros(2, np.int64)},
        {},
        11,
    ),
    "prelu on three axes": (
        [node("PRelu", ["x", "s"])],
        {"x": rand(3, 3, 1)},
        {"s": rand(3, 1, 1, seed=3)},
        17,
    ),
    "prelu on four axes": (
        [node("PRelu", ["x", "s"])],
        {"x": rand(2, 3, 4, 5)},
        {"s": rand(3, 1, 1, seed=3)},
        17,
    ),
    "transposed convolution to a size": (
        [node("ConvTranspose", ["x", "w"], strides=[2], output_shape=[6])],
        {"x": rand(1, 2, 3)},
        {"w": rand(2, 1, 3, seed=1)},
        17,
    ),
    "gru with one alpha": (*recurrent("GRU", 3, ["Sigmoid", "LeakyRelu"], [0.3], []), 17),
    "rnn with a negative alpha": (*recurrent("RNN", 1, ["Affine"], [-1.0], [0.5]), 17),
    "resize by a factor of float32": (
        [
            node(
                "Resize",
                ["x", "", "f"],
                mode="nearest",
                nearest_mode="floor",
                coordinate_transformation_mode="asymmetric",
            )
        ],
        {"x": rand(1, 1, 1, 7)},
        {"f": np.array([1, 1, 1, 0.6], F)},
        17,
    ),
    "resize that float32 rounds up": (
        [
            node(
                "Resize",
                ["x", "", "f"],
                mode="nearest",
                nearest_mode="floor",
                coordinate_transformation_mode="asymmetric",
            )
        ],
        {"x": rand(1, 1, 1, 10)},
        {"f": np.array([1, 1, 1, 0.7], F)},
        17,
    ),
    "deformable convolution of one column": (
        [node("DeformConv", ["x", "w", "o"], kernel_shape=[1, 1])],
        {"x": rand(1, 1, 3, 1), "o": np.zeros((1, 2, 3, 1), F)},
        {"w": rand(1, 1, 1, 1, seed=1)},
        19,
    ),
    "product of int32": (
        [node("ReduceProd", ["x"], axes=[1])],
        {"x": np.arange(6, dtype=np.int32).reshape(2, 3)},
        {},
        13,
    ),
    "no infinity asked for": (
        [node("IsInf", ["x"], detect_negative=0, detect_positive=0)],
        {"x": np.array([1, np.inf], F)},
        {},
        17,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_onnx_runtime(name):
    nodes, inputs, weights, opset = CASES[name]
    proto = model(nodes, inputs, ["y"], weights, opset)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    (wanted,) = session.run(None, inputs)
    with torch.no_grad():
        result = onnx_module(proto).eval()(*map(torch.from_numpy, inputs.values()))
    assert result.dtype == torch.from_numpy(wanted).dtype
    np.testing.assert_allclose(result.numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_a_weight_of_a_branch_hides_that_around_it():
    inner = numpy_helper.from_array(np.array([2], F), "c")
    y = helper.make_tensor_value_info("b", TensorProto.FLOAT, [1])
    branch = helper.make_graph([node("Add", ["x", "c"], ["b"])], "branch", [], [y], [inner])
    nodes = [
        node("If", ["yes"], ["q"], then_branch=branch, else_branch=branch),
        node("Add", ["q", "c"], ["y"]),
    ]
    weights = {"yes": np.array(True), "c": np.array([100], F)}
    proto = model(nodes, {"x": np.zeros(1, F)}, ["y"], weights)
    assert onnx_module(proto).eval()(torch.zeros(1)).item() == 102


def test_batch_statistics_are_told_by_the_outputs_before_there_was_a_mode():
    weights = {n: rand(3, seed=i) ** 2 for i, n in enumerate(("s", "b", "m", "v"))}
    nodes = [node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y", "mo", "vo", "sm", "sv"])]
    proto = model(nodes, {"x": rand(2, 3, 4)}, ["y"], weights, opset=11)
    with pytest.raises(UnsupportedModelError, match="training mode"):
        onnx_module(proto).eval()(torch.randn(2, 3, 4))


def test_an_endless_loop_is_refused():
    body = helper.make_graph(
        [node("Identity", ["going"], ["on"]), node("Add", ["s", "one"], ["t"])],
        "body",
        [
            helper.make_tensor_value_info(n, k, [])
            for n, k in (("i", TensorProto.INT64), ("going", TensorProto.BOOL), ("s", TensorProto.FLOAT))
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("t", TensorProto.FLOAT, []),
        ],
    )
    proto = model(
        [node("Loop", ["", "yes", "x"], ["y"], body=body)],
        {"x": np.zeros((), F)},
        ["y"],
        {"yes": np.array(True), "one": np.array(1, F)},
    )
    with pytest.raises(UnsupportedModelError, match="more than 4096 steps"):
        onnx_module(proto).eval()(torch.zeros(()))


def ranged(path, step):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    nodes = [
        node("Shape", ["x"], ["s"], end=1),
        node("Squeeze", ["s"], ["n"]),
        node("Range", ["zero", "n", "step"], ["r"]),
        node("Gather", ["x", "r"], ["y"]),
    ]
    weights = [numpy_helper.from_array(np.array(v), n) for n, v in (("zero", 0), ("step", step))]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4])
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        path,
    )
    return load_model(str(path), dynamic_batch=True)


def test_a_range_up_to_an_open_size_counts_it(tmp_path):
    graph = canonicalise(ranged(tmp_path / "net.onnx", 1)).graph
    x = torch.randn(8, 4)
    torch.testing.assert_close(evaluate(graph, [x])[0], x)


def test_a_range_by_steps_up_to_an_open_size_is_refused(tmp_path):
    with pytest.raises(UnsupportedModelError, match="steps other than 1"):
        canonicalise(ranged(tmp_path / "net.onnx", 2))
