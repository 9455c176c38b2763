"""Integer weights as the runtime's own operators, through the exporter's operation for custom ones.

- int4: MatMulNBits. Codes are stored from 0, which stands for -8, two in a byte, the first one low:
  [out, groups, GROUP / 2]. The kernel multiplies floats (`accuracy_level` 1), so the result is the graph's.
- int8 with an activation whose range is read as it runs: DynamicQuantizeMatMul, weights [in, out].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from compiler.compress.quantize_int4 import DEQUANTIZE, GROUP
from compiler.ir.edit import Editor
from compiler.ir.graph import Node, Value

DOMAIN = "com.microsoft"
SYMBOLIC = "onnx_symbolic._symbolic.default"
FLOATS = 1  # ONNX's float32, and the accuracy level that multiplies in it
CHANNELS = "quantized_decomposed.dequantize_per_channel.default"
DYNAMIC = "quantized_decomposed.dequantize_per_tensor.tensor"


def integer_linear(editor: Editor, node: Node) -> Sequence[Value]:
    """Write a linear layer with an int4 weight, or a dynamic int8 one, as the runtime's operator."""
    graph = editor.graph
    weight, read = (graph.producer(node.operand(key)) for key in ("weight", "input"))
    stored = weight.op in (DEQUANTIZE, CHANNELS)
    codes, scales = (graph.constant(weight.operand(k)) if stored else None for k in ("input", "scales"))
    if codes is None or scales is None:
        return ()
    if weight.op == DEQUANTIZE:
        parts = {"codes": packed(codes), "scales": scales.float().reshape(len(codes), -1)}
        kept = [_constant(editor, node, role, tensor) for role, tensor in parts.items()]
        inputs = (node.operand("input"), *kept, None, None, node.operand("bias"))
        sizes = {"K": codes.shape[1], "N": codes.shape[0], "bits": 4, "block_size": GROUP}
        return (_call(editor, node, "MatMulNBits", inputs, {**sizes, "accuracy_level": FLOATS}),)
    if read.op != DYNAMIC:
        return ()
    source = graph.producer(read.operand("input")).operand("input")
    parts = {"codes": codes.T.contiguous(), "scales": scales.float()}
    parts["zero_points"] = torch.zeros(len(codes), dtype=torch.int8)
    kept = [_constant(editor, node, role, tensor) for role, tensor in parts.items()]
    inputs = (source, *kept, node.operand("bias"))
    return (_call(editor, node, "DynamicQuantizeMatMul", inputs, {}),)


def packed(codes: torch.Tensor) -> torch.Tensor:
    """Return codes [out, in] in -8..7 as bytes [out, groups, GROUP / 2]."""
    pairs = (codes + 8).to(torch.uint8).reshape(len(codes), -1, GROUP // 2, 2)
    return pairs[..., 0] | (pairs[..., 1] << 4)


def _constant(editor: Editor, node: Node, role: str, tensor: torch.Tensor) -> Value:
    return editor.constant(tensor, f"{node.name}_{role}", node.origin, before=node.name)


def _call(
    editor: Editor, node: Node, kind: str, inputs: Sequence[Value | None], attributes: Mapping[str, int]
) -> Value:
    """Place an operator of the runtime's in front of a node."""
    count = len(attributes)
    operands = {
        "inputs": tuple(inputs),
        "op_type": kind,
        "onnx_dtype": FLOATS,
        "shape": node.type.shape,
        "attr_keys": tuple(attributes),
        "attr_types": ("i",) * count,
        "attr_pos": tuple((i, i + 1) for i in range(count)),
        "attr_ints": tuple(attributes.values()),
        **dict.fromkeys(("attr_floats", "attr_strs", "metadata_props_keys", "metadata_props_values"), ()),
        "domain": DOMAIN,
        "version": 1,
    }
    place = (node.origin, node.source, node.name)
    return editor.op(SYMBOLIC, operands, [node.type], f"{node.name}_{kind.lower()}", *place)
