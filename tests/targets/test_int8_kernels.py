"""One call in a precision as a program: every target that has the precision lowers it, in that and not in float."""

from __future__ import annotations

import pytest
import torch

from compiler.cost.kernel import TensorSpec, kernel_call
from compiler.cost.quantized import Quantized
from compiler.errors import UnsupportedModelError
from compiler.evaluate import evaluate
from compiler.target import INT4, INT8, INT8_DYNAMIC
from edgewright.kernel_programs import kernel_graph, quantized_graph
from targets import get_target


def conv():
    x, w = TensorSpec((1, 8, 12, 12), "float32", False), TensorSpec((16, 8, 3, 3), "float32", True)
    return kernel_call("aten.conv2d.default", {"input": x, "weight": w, "padding": [1, 1]})


def linear():
    x, w = TensorSpec((4, 32), "float32", False), TensorSpec((16, 32), "float32", True)
    return kernel_call("aten.linear.default", {"input": x, "weight": w})


def relu():
    return kernel_call("aten.relu.default", {"self": TensorSpec((1, 8), "float32", False)})


CASES = [
    *((name, linear, INT8) for name in ("executorch", "litert", "onnxruntime", "tvm")),
    ("litert", conv, INT8),
    ("executorch", linear, INT8_DYNAMIC),
    ("litert", linear, INT8_DYNAMIC),
    *((name, linear, INT4) for name in ("executorch", "litert", "onnxruntime")),
]


@pytest.mark.parametrize(("name", "call", "precision"), CASES)
def test_a_call_in_int8_is_the_targets_own(name, call, precision) -> None:
    made = quantized_graph(Quantized(call(), precision), get_target(name))
    assert any(c.tensor.dtype == torch.int8 for c in made.constants.values())
    assert any("quantize" in n.op for n in made.ops())
    float_ = kernel_graph(call())
    # One of the inputs that the ranges were read from: others may lie outside.
    x = torch.randn(float_.inputs()[0].type.shape, generator=torch.Generator().manual_seed(0))
    (wanted,), (found,) = evaluate(float_, [x]), evaluate(made, [x])
    assert float((found - wanted).abs().max() / wanted.abs().max()) < (0.2 if precision == INT4 else 0.05)


@pytest.mark.parametrize("precision", [INT8_DYNAMIC, INT4])
def test_a_precision_that_a_target_lacks_is_refused(precision) -> None:
    with pytest.raises(UnsupportedModelError, match=f"has no precision {precision}"):
        quantized_graph(Quantized(linear(), precision), get_target("tvm"))


def test_what_the_target_quantizes_nothing_of_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="can be int8"):
        quantized_graph(Quantized(relu(), INT8_DYNAMIC), get_target("executorch"))
