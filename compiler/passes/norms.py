"""LayerNorm that is written in parts: `(x - m) / sqrt(v + eps) * w + b`, means over the last axes.

ONNX has an operator for it since opset 17 only, and model code spells it out; a runtime has kernels, or a
target a form of its own, for the whole (Ba et al., arXiv 1607.06450). As with activations, what is
recognised is a function, not a spelling: the operations between a value and what is computed from it alone
are evaluated in float64 on random rows of several sizes, with and without an offset, and replaced where
they agree with a LayerNorm whose `eps` is one of their own numbers:

    |f(x) - g(x)| <= 2^-20 (1 + |g(x)|)

A factor and a summand behind it, constants over the normalised axes, become its weight and bias.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, Value
from compiler.passes.parts import between, computed, sources

MOST_PARTS = 12
TOLERANCE = 2.0**-20
ROWS = ((1.0, 0.0), (1.0, 3.0), (1e-3, 0.0), (30.0, -100.0))  # deviation, mean
LARGEST_EPS = 0.1

_MEANS = frozenset({"aten.mean.dim", "aten.var.correction", "aten.var_mean.correction"})
_PARTS = _MEANS | {
    f"aten.{name}"
    for name in (
        *("add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor", "neg.default", "reciprocal.default"),
        *("pow.Tensor_Scalar", "pow.Tensor_Tensor", "square.default", "sqrt.default", "rsqrt.default"),
    )
}
_LAST = frozenset({"aten.mul.Tensor", "aten.div.Tensor"})


def name_norms(graph: Graph) -> Graph:
    """Return the graph with each LayerNorm that is written in parts as the one operation it is."""
    if not any(node.op in _MEANS for node in graph.ops()):
        return graph
    editor = Editor(graph)
    for original in graph.ops():
        if original.op in _LAST and original.type.dtype.is_floating_point and original.name in editor.graph:
            _name(editor, editor.graph.node(original.name))
    return editor.finish()


def _name(editor: Editor, root: Node) -> None:
    graph = editor.graph

    def inside(node: Node) -> bool:
        return node.op in _PARTS and node.type.dtype == root.type.dtype

    for source in sources(graph, root, inside, MOST_PARTS):
        parts = between(graph, source, root, inside, MOST_PARTS)
        if parts is None or graph.type_of(source) != root.type:
            continue
        shape = _normalized(parts, root)
        eps = None if shape is None else _eps(graph, parts, source, root, shape)
        if shape is not None and eps is not None:
            _replace(editor, root, source, shape, eps)
            return


def _normalized(parts: Sequence[Node], root: Node) -> tuple[int, ...] | None:
    """Return the sizes of the last axes that every mean of `parts` is over, None where they differ."""
    rank = root.type.rank
    axes = {_axes(node, rank) for node in parts if node.op in _MEANS}
    if len(axes) != 1 or len(over := axes.pop()) not in range(1, rank):
        return None
    if over != tuple(range(rank - len(over), rank)):
        return None
    shape = root.type.shape[rank - len(over) :]
    return tuple(s for s in shape if isinstance(s, int)) if all(isinstance(s, int) for s in shape) else None


def _axes(node: Node, rank: int) -> tuple[int, ...]:
    dims = node.operand("dim") if node.operand("keepdim") is True else None
    return tuple(sorted(d % rank for d in dims)) if isinstance(dims, tuple) else ()


def _eps(
    graph: Graph, parts: Sequence[Node], source: Value, root: Node, shape: tuple[int, ...]
) -> float | None:
    """Return the `eps` with which LayerNorm is what `parts` compute, None where it is not."""
    generator = torch.Generator().manual_seed(0)
    leading = (*(1 for _ in range(root.type.rank - len(shape) - 1)), len(ROWS))
    deviation, mean = (torch.tensor(c, dtype=torch.float64) for c in zip(*ROWS, strict=True))
    rows = torch.randn((len(ROWS), _count(shape)), generator=generator, dtype=torch.float64)
    x = (rows * deviation[:, None] + mean[:, None]).reshape(*leading, *shape)
    got = computed(graph, parts, source, x)
    for eps in _numbers(graph, parts):
        wanted = F.layer_norm(x, shape, eps=eps)
        if got.shape == x.shape and bool(((got - wanted).abs() <= TOLERANCE * (1 + wanted.abs())).all()):
            return eps
    return None


def _numbers(graph: Graph, parts: Sequence[Node]) -> list[float]:
    found = []
    for node in parts:
        for _, operand in node.operands:
            tensor = graph.constant(operand)
            number = float(tensor) if tensor is not None and tensor.numel() == 1 else operand
            if isinstance(number, float) and 0 <= number <= LARGEST_EPS:
                found.append(number)
    return found


def _replace(editor: Editor, root: Node, source: Value, shape: tuple[int, ...], eps: float) -> None:
    """Put a LayerNorm in the place of `root`, and of a factor and a summand that follow it."""
    last, weight = _followed(editor, root, "aten.mul.Tensor", shape)
    last, bias = _followed(editor, last, "aten.add.Tensor", shape) if weight is not None else (last, None)
    operands = {"input": source, "normalized_shape": shape, "weight": weight, "bias": bias}
    named = editor.ahead_of(
        last, "aten.layer_norm.default", {**operands, "eps": eps, "cudnn_enable": False}, root.type
    )
    editor.replace_uses(last.value, named)
    editor.remove_unread([last.name])


def _followed(editor: Editor, node: Node, op: str, shape: tuple[int, ...]) -> tuple[Node, Value | None]:
    """Return the only reader of a node and its constant over the normalised axes; or the node and None."""
    uses = editor.graph.uses(node.value)
    if len(uses) != 1 or uses[0][0].op != op or uses[0][0].type != node.type:
        return node, None
    reader = uses[0][0]
    others = [v for _, v in reader.values() if v != node.value]
    tensor = editor.graph.constant(others[0]) if len(others) == 1 else None
    scaled = op == "aten.add.Tensor" and reader.operand("alpha") != 1
    if tensor is None or scaled or tensor.dtype != node.type.dtype or tensor.numel() != _count(shape):
        return node, None
    if tensor.shape[-len(shape) :] != shape:
        return node, None
    if tuple(tensor.shape) == shape:
        return reader, others[0]
    return reader, editor.constant(tensor.reshape(shape), "norm", before=reader.name)


def _count(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
