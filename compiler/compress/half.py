r"""float16: chosen operations store weights and activations in half, between casts.

    :math:`\hat y = \mathrm{float32}(f_{16}(\mathrm{float16}(x), \mathrm{float16}(w)))`

A value is cast once for all its readers, and stays in half between chosen operations. Kernels may sum in
float16 or in float32: the graph computes as torch does, and a runtime's result may differ from it by what
summing in half loses. Numbers beyond 65504 become infinite: a weight that large keeps its operation in
float32, and activations that large are for the cost to find.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import torch

from compiler.compress.weights import WEIGHTED
from compiler.errors import UnsupportedModelError
from compiler.ir.edit import Editor, with_values
from compiler.ir.graph import Constant, Graph, Node, TensorType, Value
from compiler.ir.verify import verify

CAST = "aten._to_copy.default"
LARGEST = torch.finfo(torch.float16).max
_PLAIN = (
    *("adaptive_avg_pool2d.default", "add.Tensor", "avg_pool2d.default", "cat.default", "div.Tensor"),
    *("gelu.default", "hardsigmoid.default", "hardswish.default", "hardtanh.default", "layer_norm.default"),
    *(
        "leaky_relu.default",
        "matmul.default",
        "max_pool2d.default",
        "mean.dim",
        "mul.Tensor",
        "permute.default",
    ),
    *("relu.default", "reshape.default", "scaled_dot_product_attention.default", "sigmoid.default"),
    *("silu.default", "slice.Tensor", "softmax.int", "sub.Tensor", "tanh.default", "transpose.int"),
    *("unsqueeze.default", "squeeze.dim", "expand.default", "conv_transpose2d.input"),
)
OPS = frozenset((*WEIGHTED, *(f"aten.{name}" for name in _PLAIN)))


def half_able(graph: Graph) -> frozenset[str]:
    """Return the operations with a stored float32 weight that can be in half, as others around them can."""
    return frozenset(n.name for n in graph.ops() if n.op in WEIGHTED and _able(graph, n))


def to_half(graph: Graph, selected: Collection[str]) -> Graph:
    """Return the graph with those of the selected operations in float16 that can be.

    Constants become `name_half`, values `name_half` behind a cast to float16 and `name_float` behind one
    back. Raises UnsupportedModelError where nothing selected that has a weight can be.
    """
    chosen = frozenset(n for n in selected if n in graph and _able(graph, graph.node(n)))
    if not chosen & half_able(graph):
        raise UnsupportedModelError(
            f"none of the {len(frozenset(selected))} selected operations can be float16: it takes "
            "convolutions and linear layers in float32, with weights below 65504"
        )
    edits = _Edits(graph, chosen)
    for node in graph.ops():
        edits.visit(node)
    for node in [*graph.writes(), graph.output]:
        edits.visit(node)
    result = edits.editor.finish()
    verify(result)
    return result


def half_nodes(graph: Graph) -> frozenset[str]:
    """Return the operations with a weight that compute in float16."""
    return frozenset(n.name for n in graph.ops() if n.op in WEIGHTED and n.type.dtype is torch.float16)


def _able(graph: Graph, node: Node) -> bool:
    if node.op not in OPS or any(t.dtype is not torch.float32 for t in node.types):
        return False
    if any(isinstance(operand, torch.dtype) for _, operand in node.operands):
        return False
    stored = (graph.constant(v) for _, v in node.values())
    return all(c is None or c.dtype is not torch.float32 or _small(c) for c in stored)


def _small(tensor: torch.Tensor) -> bool:
    return tensor.numel() == 0 or float(tensor.abs().max()) <= LARGEST


class _Edits:
    """One graph being cast: chosen operations read and write half, all others what they did."""

    def __init__(self, graph: Graph, chosen: frozenset[str]) -> None:
        self.graph, self.chosen, self.editor = graph, chosen, Editor(graph)
        self.cast: dict[tuple[Value, torch.dtype], Value] = {}

    def visit(self, node: Node) -> None:
        ours = node.name in self.chosen
        changes = {path: new for path, v in node.values() if (new := self._read(node, v, ours)) is not None}
        operands = tuple((key, with_values(operand, key, changes)) for key, operand in node.operands)
        types = tuple(TensorType(t.shape, torch.float16) for t in node.types) if ours else node.types
        self.editor.update(dataclasses.replace(node, operands=operands, types=types))
        self.editor.remove_unread({v.node for path, v in node.values() if path in changes})

    def _read(self, reader: Node, value: Value, ours: bool) -> Value | None:
        """Return what to read in place of a value, None where it stays."""
        made_half = value.node in self.chosen
        if made_half == ours or self.graph.type_of(value).dtype is not torch.float32:
            return None
        dtype = torch.float16 if ours else torch.float32
        if (value, dtype) not in self.cast:
            self.cast[value, dtype] = self._cast(reader, value, dtype)
        return self.cast[value, dtype]

    def _cast(self, reader: Node, value: Value, dtype: torch.dtype) -> Value:
        node = self.graph.producer(value)
        name = f"{value.node}_{'half' if dtype is torch.float16 else 'float'}"
        stored = self.graph.constant(value)
        if stored is not None:
            half = Constant(stored.to(dtype))
            return self.editor.constant(half, name, node.origin, before=reader.name)
        kind = TensorType(self.graph.type_of(value).shape, dtype)
        operands = {"self": value, "dtype": dtype}
        return self.editor.op(CAST, operands, [kind], name, node.origin, node.source, before=reader.name)
