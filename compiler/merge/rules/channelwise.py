"""Scales, shifts and BatchNorm in eval: `y = S x + t` with constants (`merges.md` 1.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from compiler.ir.graph import Graph, Node, Operand, Value
from compiler.merge import blocks
from compiler.merge.affine_ops import AffineNode, Rule, is_data
from compiler.merge.attempt import Refusal
from compiler.merge.form import Form
from compiler.merge.rules.expansion import expanding
from compiler.merge.shift import plus, times
from compiler.merge.sizes import constant
from compiler.merge.tap_map import with_blocks


def node_of(source: Value, scale: torch.Tensor | None, shift: torch.Tensor | None) -> AffineNode:
    """Return the node `scale * source + shift`; both broadcast to the source's shape."""

    def apply(forms: Sequence[Form]) -> Form:
        return shifted(scaled(forms[0], scale), shift)

    return AffineNode((source,), apply)


def scaled(form: Form, scale: torch.Tensor | None) -> Form:
    """Return the form times a constant; raises Refusal where that depends on the position."""
    if scale is None:
        return form
    vector = per_channel(form, scale)
    if vector is None:
        raise Refusal("it scales each position differently, which no kernel does")
    vector = form.weight(vector)
    matrices = blocks.product(blocks.diagonal(vector), form.taps.blocks)
    return replace(form, taps=with_blocks(form.taps, matrices), shift=times(form.shift, vector))


def shifted(form: Form, shift: torch.Tensor | None, factor: float = 1.0) -> Form:
    """Return the form plus `factor` times a constant; one of each position becomes a shift map."""
    if shift is None:
        return form
    vector = per_channel(form, shift)
    added = form.weight(_map(form, shift) if vector is None else vector)
    return replace(form, shift=plus(form.shift, added, factor))


def per_channel(form: Form, tensor: torch.Tensor) -> torch.Tensor | None:
    """Return what a broadcast constant is at each channel, [C], None where positions differ."""
    channels = form.taps.channels_out
    if tensor.numel() == 1:
        return tensor.reshape(1).expand(channels)
    aligned = tensor.reshape((1,) * (len(form.shape) - tensor.dim()) + tuple(tensor.shape))
    if form.arrangement is None:
        wide = [a for a, size in enumerate(aligned.shape) if size != 1]
        return aligned.flatten() if wide == [form.axis] else None
    channel = form.arrangement.channel
    values = aligned.expand(channel.shape)
    vector = torch.zeros(channels, dtype=tensor.dtype)
    vector[channel.flatten()] = values.flatten()
    return vector if bool((vector[channel] == values).all()) else None


def _map(form: Form, tensor: torch.Tensor) -> torch.Tensor:
    """Return a constant that differs between positions as a shift map, [C, *grid]."""
    aligned = tensor.reshape((1,) * (len(form.shape) - tensor.dim()) + tuple(tensor.shape))
    grid = tuple(s for i, s in enumerate(form.shape) if i not in (0, form.axis))
    fits = (
        form.arrangement is None and form.axis != 0 and aligned.shape[0] == 1 and grid == form.taps.out_size
    )
    if not fits:
        raise Refusal("it adds something else at each position")
    return aligned.expand(1, *form.shape[1:])[0].movedim(form.axis - 1, 0)


def _batch_norm(graph: Graph, node: Node, _: int) -> AffineNode | None:
    if node.operand("training"):
        return None
    mean, variance, gamma, beta = (
        _wide(constant(graph, node.operand(k))) for k in ("running_mean", "running_var", "weight", "bias")
    )
    given = [node.operand(k) is not None for k in ("weight", "bias")]
    if mean is None or variance is None or given != [gamma is not None, beta is not None]:
        return None
    scale = torch.rsqrt(variance + node.operand("eps"))
    scale = scale if gamma is None else scale * gamma
    shift = -mean * scale if beta is None else beta - mean * scale
    trailing = (1,) * (node.type.rank - 2)
    return node_of(node.operand("input"), scale.reshape(-1, *trailing), shift.reshape(-1, *trailing))


def _wide(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.detach().double()


def _times(graph: Graph, node: Node, _: int) -> AffineNode | None:
    found = _split(graph, node, commutes="mul" in node.op)
    if found is None:
        return expanding(graph, node) if node.op == "aten.mul.Tensor" else None
    data, other = found
    if "div" not in node.op:
        return node_of(data, other, None)
    if node.operand("rounding_mode") is not None or bool((other == 0).any()):
        return None
    return node_of(data, 1 / other.double(), None)


def _plus(graph: Graph, node: Node, _: int) -> AffineNode | None:
    found = _split(graph, node, commutes=True)
    if found is None:
        return None
    data, other = found
    alpha, minus = float(node.operand("alpha", 1)), "sub" in node.op
    left = is_data(graph, node.operand("self"))
    if left:
        return node_of(data, None, other.double() * (-alpha if minus else alpha))
    own = torch.tensor([-alpha if minus else alpha], dtype=torch.float64)
    return node_of(data, own, other.double())


def _negation(graph: Graph, node: Node, _: int) -> AffineNode | None:
    return node_of(node.operand("self"), torch.tensor([-1.0], dtype=torch.float64), None)


def _split(graph: Graph, node: Node, commutes: bool) -> tuple[Value, torch.Tensor] | None:
    """Return (data, constant) of a binary operation that does not broadcast its data."""
    left, right = node.operand("self"), node.operand("other")
    if not is_data(graph, left) and commutes:
        left, right = right, left
    if not is_data(graph, left) or graph.type_of(left).shape != node.type.shape:
        return None
    other = _constant_side(graph, right)
    return None if other is None else (left, other)


def _constant_side(graph: Graph, operand: Operand) -> torch.Tensor | None:
    if isinstance(operand, int | float) and not isinstance(operand, bool):
        return torch.tensor([float(operand)], dtype=torch.float64)
    tensor = constant(graph, operand)
    return None if tensor is None or tensor.is_complex() else tensor


RULES: dict[str, Rule] = {
    "aten.batch_norm.default": _batch_norm,
    **{f"aten.{op}.{kind}": _times for op in ("mul", "div") for kind in ("Tensor", "Scalar")},
    "aten.add.Scalar": _plus,
    "aten.sub.Scalar": _plus,
    "aten.neg.default": _negation,
}
constant_sum = _plus
