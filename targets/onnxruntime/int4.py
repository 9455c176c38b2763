"""int4 weights as the runtime's own MatMulNBits, through the exporter's operation for custom operators.

Codes are stored from 0, which stands for -8, two in a byte, the first one low: [out, groups, GROUP / 2].
The kernel multiplies floats (`accuracy_level` 1), so that the result is the graph's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from compiler.compress.quantize_int4 import DEQUANTIZE, GROUP
from compiler.ir.edit import Editor
from compiler.ir.graph import Node, Value

KIND, DOMAIN = "MatMulNBits", "com.microsoft"
SYMBOLIC = "onnx_symbolic._symbolic.default"
FLOATS = 1  # ONNX's float32, and the accuracy level that multiplies in it


def int4_linear(editor: Editor, node: Node) -> Sequence[Value]:
    """Write a linear layer with an int4 weight as the runtime's operation."""
    graph = editor.graph
    weight = graph.producer(node.operand("weight"))
    if weight.op != DEQUANTIZE:
        return ()
    codes, scales = (graph.constant(weight.operand(key)) for key in ("input", "scales"))
    if codes is None or scales is None:
        return ()
    place = {"origin": node.origin, "before": node.name}
    stored = editor.constant(packed(codes), f"{node.name}_codes", **place)
    scale = editor.constant(scales.float().reshape(len(codes), -1), f"{node.name}_scales", **place)
    attributes = {"K": codes.shape[1], "N": codes.shape[0], "bits": 4, "block_size": GROUP}
    attributes["accuracy_level"] = FLOATS
    count = len(attributes)
    operands = {
        "inputs": (node.operand("input"), stored, scale, None, None, node.operand("bias")),
        "op_type": KIND,
        "onnx_dtype": FLOATS,
        "shape": node.type.shape,
        "attr_keys": tuple(attributes),
        "attr_types": ("i",) * count,
        "attr_pos": tuple((i, i + 1) for i in range(count)),
        "attr_ints": tuple(attributes.values()),
        "attr_floats": (),
        **dict.fromkeys(("attr_strs", "metadata_props_keys", "metadata_props_values"), ()),
        "domain": DOMAIN,
        "version": 1,
    }
    hint = f"{node.name}_int4"
    return (editor.op(SYMBOLIC, operands, [node.type], hint, node.origin, node.source, before=node.name),)


def packed(codes: torch.Tensor) -> torch.Tensor:
    """Return codes [out, in] in -8..7 as bytes [out, groups, GROUP / 2]."""
    pairs = (codes + 8).to(torch.uint8).reshape(len(codes), -1, GROUP // 2, 2)
    return pairs[..., 0] | (pairs[..., 1] << 4)
