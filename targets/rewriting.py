"""Rewrites a graph into equal operations that a runtime takes, by a rule an operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, TensorType, Value
from compiler.ir.schema import normalize
from compiler.ir.verify import verify

Rule = Callable[[Editor, Node], Sequence[Value]]  # one value an output, none where it does not apply


def rewrite(graph: Graph, rules: Mapping[str, Rule]) -> Graph:
    """Return an equal graph with each rule applied to its operation; the same graph where none has any."""
    nodes = [n for n in graph.ops() if n.op in rules]
    if not nodes:
        return graph
    editor = Editor(graph)
    for node in nodes:
        made = rules[node.op](editor, editor.graph.node(node.name))
        for index, value in enumerate(made):
            editor.replace_uses(Value(node.name, index), value)
        if made:
            editor.remove_unread([node.name])
    legal = editor.finish()
    verify(legal)
    return legal


class Maker:
    """Places new nodes in front of the one they stand for, with its origin and dtype."""

    def __init__(self, editor: Editor, node: Node) -> None:
        """Make nodes in front of `node`."""
        self.editor, self.node = editor, node

    def op(
        self, op: str, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None, shape: Any = None
    ) -> Value:
        """Place an operation; its shape is that of the node, of a reshape's argument, or as given."""
        node = self.node
        shape = args[1] if op == "aten.reshape.default" else shape
        type_ = TensorType(node.type.shape if shape is None else tuple(shape), node.type.dtype)
        operands = dict(normalize(op, args, kwargs or {}))
        hint = f"{node.name}_{op.split('.')[1]}"
        return self.editor.op(op, operands, [type_], hint, node.origin, node.source, before=node.name)

    def constant(self, tensor: torch.Tensor, role: str) -> Value:
        """Place a constant, cast to the node's dtype."""
        node = self.node
        hint = f"{node.name}_{role}"
        return self.editor.constant(tensor.to(node.type.dtype), hint, node.origin, before=node.name)


def tensor(editor: Editor, operand: Any) -> torch.Tensor | None:
    """Return a constant operand in float64, None where it is none."""
    found = editor.graph.constant(operand)
    return None if found is None else found.double()


def scale_and_shift(editor: Editor, node: Node) -> tuple[torch.Tensor, torch.Tensor] | None:
    r"""Return :math:`s = \gamma / \sqrt{v + \epsilon}`, :math:`t = \beta - \mu s` of a BatchNorm.

    Both are float64[channels]; None where its statistics are no constants, or it is in training mode.
    """
    parts = [tensor(editor, node.operand(k)) for k in ("weight", "bias", "running_mean", "running_var")]
    weight, bias, mean, variance = parts
    if mean is None or variance is None or node.operand("training"):
        return None
    scale = torch.rsqrt(variance + node.operand("eps")) * (1.0 if weight is None else weight)
    return scale, (0.0 if bias is None else bias) - mean * scale


def affine_norm(editor: Editor, node: Node) -> Sequence[Value]:
    """Write BatchNorm as `s x + t`, a product and a sum."""
    found = scale_and_shift(editor, node)
    if found is None:
        return ()
    shape = (1, -1, *(1,) * (node.type.rank - 2))
    make = Maker(editor, node)
    s, t = (make.constant(c.reshape(shape), r) for c, r in zip(found, ("scale", "shift"), strict=True))
    return (make.op("aten.add.Tensor", (make.op("aten.mul.Tensor", (node.operand("input"), s)), t)),)
