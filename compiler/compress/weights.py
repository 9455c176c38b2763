"""The weights of an operation: read as the quantizer left them, and given anew.

An operation keeps its name and its place; a stored tensor that others read as well is not theirs to
lose, so the operation then gets one of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from compiler.compress.quantize import NAMESPACE
from compiler.compress.track import Track
from compiler.ir.edit import Editor
from compiler.ir.graph import Constant, Graph, Kind, Node, Value

LINEAR = "aten.linear.default"
CONV1D, CONV2D = "aten.conv1d.default", "aten.conv2d.default"
WEIGHTED = (LINEAR, CONV1D, CONV2D)


@dataclass(frozen=True)
class Codes:
    """Integer weights, [out, ...], behind a dequantise with one scale per output channel, in [low, high]."""

    node: Node
    codes: torch.Tensor
    scale: torch.Tensor
    low: int
    high: int

    def real(self) -> torch.Tensor:
        """Return the weights they stand for."""
        return self.codes.to(self.scale.dtype) * along(self.scale, self.codes)


def weighted(graph: Graph, node: Node) -> bool:
    """Tell whether an operation has a stored floating weight, or stored codes, and a stored bias or none."""
    if node.op not in WEIGHTED or not (node.operand("bias") is None or _stored(graph, node, "bias")):
        return False
    weight = graph.constant(node.operand("weight"))
    return (weight is not None and weight.is_floating_point()) or codes_of(graph, node) is not None


def codes_of(graph: Graph, node: Node) -> Codes | None:
    """Return the integer weights of an operation, None where they are float."""
    source = graph.producer(node.operand("weight"))
    if source.op != NAMESPACE + "dequantize_per_channel.default" or source.operand("axis") != 0:
        return None
    codes = graph.constant(source.operand("input"))
    scale, zero = graph.constant(source.operand("scales")), graph.constant(source.operand("zero_points"))
    if codes is None or scale is None or (zero is not None and bool(zero.any())):
        return None
    return Codes(source, codes, scale, source.operand("quant_min"), source.operand("quant_max"))


def stored(graph: Graph, name: str) -> torch.Tensor:
    """Return a constant's tensor."""
    found = graph.constants[name].tensor
    assert found is not None, f"constant {name!r} has no data"
    return found.detach()


def real_weight(graph: Graph, node: Node) -> torch.Tensor:
    """Return the floating weight of a `weighted` operation, that of its codes where it has them."""
    codes = codes_of(graph, node)
    weight = graph.constant(node.operand("weight")) if codes is None else codes.real()
    assert weight is not None
    return weight.detach()


def real_bias(graph: Graph, node: Node) -> torch.Tensor:
    """Return the bias of a `weighted` operation, zeros where it has none."""
    bias = graph.constant(node.operand("bias"))
    weight = real_weight(graph, node)
    return weight.new_zeros(len(weight)) if bias is None else bias.detach()


def renew(
    editor: Editor, node: Node, tensors: Mapping[str, torch.Tensor], track: Track | None = None
) -> Node:
    """Give an operation new stored tensors by operand and return it; a track then runs on with them."""
    changed = editor.graph.node(node.name)
    for key, tensor in tensors.items():
        old = changed.operand(key)
        name = _own(editor, changed, key)
        if name is None:
            hint = f"{node.name}_{key}" if old is None else old.node
            origin = node.origin if old is None else editor.graph.node(old.node).origin
            name = editor.constant(tensor.contiguous(), hint, origin, before=node.name).node
            operands = tuple((k, Value(name) if k == key else o) for k, o in changed.operands)
            changed = dataclasses.replace(changed, operands=operands)
            editor.update(changed)
        editor.graph.constants[name] = Constant(tensor.contiguous())
        if track is not None:
            track.store(name, tensor)
    return changed


def along(channels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return one number a channel, shaped to multiply a weight [out, ...] by rows."""
    return channels.reshape(-1, *(1,) * (weight.dim() - 1))


def channel_axis(node: Node) -> int:
    """Return the axis of a weighted operation's channels in its input and its output."""
    return -1 if node.op == LINEAR else 1


def channel_rows(tensor: torch.Tensor, axis: int) -> torch.Tensor:
    """Return a value as rows of channels, [positions of all samples, channels]."""
    return tensor.movedim(axis, -1).reshape(-1, tensor.shape[axis])


def input_rows(node: Node, tensor: torch.Tensor, kernel: tuple[int, ...]) -> torch.Tensor:
    """Return what a linear operation or a convolution of one group multiplies its rows with.

    The result is [positions, in * taps], matched to `weight.flatten(1)`.
    """
    if node.op == LINEAR:
        return tensor.reshape(-1, tensor.shape[-1])
    image = tensor.unsqueeze(2) if node.op == CONV1D else tensor
    flat = {key: node.operand(key) for key in ("stride", "padding", "dilation")}
    if node.op == CONV1D:
        pads = {"stride": 1, "padding": 0, "dilation": 1}
        flat = {key: (pads[key], *value) for key, value in flat.items()}
        kernel = (1, *kernel)
    return F.unfold(image, kernel, **flat).transpose(1, 2).flatten(0, 1)


def _own(editor: Editor, node: Node, key: str) -> str | None:
    """Return the name of a constant that this operand alone reads."""
    value = node.operand(key)
    if value is None or editor.graph.node(value.node).kind is not Kind.CONSTANT:
        return None
    return value.node if len(editor.graph.uses(value)) == 1 else None


def _stored(graph: Graph, node: Node, key: str) -> bool:
    return graph.constant(node.operand(key)) is not None
