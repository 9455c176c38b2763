"""Several calls as one kernel: its key, its counts and the graph that stands for it."""

from __future__ import annotations

import pytest
import torch

from compiler.cost.composite import ENTRY, Composite, composite_graph
from compiler.cost.kernel import TensorSpec, kernel_call, kernel_counts
from compiler.evaluate import evaluate

pytestmark = pytest.mark.core

X = TensorSpec((1, 8, 12, 12), "float32", False)


def conv(kernel: int):
    weight = TensorSpec((8, 1, kernel, kernel), "float32", True)
    operands = {"input": X, "weight": weight, "bias": None, "padding": (kernel // 2,) * 2, "groups": 8}
    return kernel_call("aten.conv2d.default", operands)


def total() -> Composite:
    add = kernel_call("aten.add.Tensor", {"self": X, "other": X})
    return Composite([conv(3), conv(5), add], [(ENTRY,), (ENTRY,), (0, 1)])


def test_the_graph_has_one_input_and_computes_the_calls_in_order() -> None:
    graph = composite_graph(total())
    assert len(graph.inputs()) == 1
    x = torch.randn(X.shape)
    small, large = (c.tensor for c in graph.constants.values())
    wanted = sum(torch.conv2d(x, w, padding=w.shape[-1] // 2, groups=8) for w in (small, large))
    torch.testing.assert_close(evaluate(graph, [x])[0], wanted)


def test_counts_are_those_of_the_calls() -> None:
    parts = [kernel_counts(call) for call in total().calls]
    assert kernel_counts(total()).macs == sum(p.macs for p in parts)
    assert kernel_counts(total()).bytes == sum(p.bytes for p in parts)


def test_what_is_read_is_part_of_the_key() -> None:
    first = total()
    other = Composite(first.calls, [(ENTRY,), (ENTRY,), (1, 0)])
    assert first == total()
    assert first != other
    assert first.text != other.text


def test_the_output_that_is_read_is_kept_and_part_of_the_key() -> None:
    split = kernel_call("aten.split_with_sizes.default", {"self": X, "split_sizes": [5, 3], "dim": 1})
    relu = kernel_call("aten.relu.default", {"self": TensorSpec((1, 3, 12, 12), "float32", False)})
    composite = Composite([split, relu], [(ENTRY,), (0,)], [1, 0])
    x = torch.randn(X.shape)
    torch.testing.assert_close(evaluate(composite_graph(composite), [x])[0], torch.relu(x[:, 5:]))
    assert "of %0#1" in composite.text


def test_reads_must_match_the_calls() -> None:
    with pytest.raises(ValueError, match="reads 2 results"):
        Composite([conv(3)], [(ENTRY, ENTRY)])
