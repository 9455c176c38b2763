r"""int4 weights of linear layers, a scale for each group of inputs, as kernels for them store it.

    :math:`\hat W_{og} = s_{og} \, q_{og}, \qquad s_{og} = \mathrm{bf16}(\max |w_{og}| / 7), \qquad
    q = \mathrm{clamp}(\mathrm{round}(w / s), -7, 7)`

with one scale for `GROUP` inputs of a row o. Where the runtime's kernels multiply integers, rows of
activations are rounded as they run and the graph says so (`compiler.compress.round_rows`); where they
multiply floats, the activation stays as it is. How weights reach the grid better than to the nearest is
`compiler.compress.awq`'s and `compiler.compress.gptq`'s business. Source: the grouped form of Frantar et al.,
arXiv 2210.17323.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import torch

from compiler.compress.quantize import NAMESPACE
from compiler.compress.round_rows import RowRounding
from compiler.compress.weight_grid import Grid
from compiler.errors import UnsupportedModelError
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, TensorType, Value
from compiler.ir.verify import verify

GROUP = 32  # inputs that share a scale: what XNNPACK, LiteRT and ONNX Runtime all have kernels for
GRID = Grid(4, GROUP, torch.bfloat16)  # as XNNPACK stores scales
DEQUANTIZE = f"{NAMESPACE}dequantize_per_channel_group.default"
_LINEAR = "aten.linear.default"
_LOW, _HIGH = -8, 7  # of the stored type; the grid is symmetric and leaves its lowest code out


def int4_able(graph: Graph) -> frozenset[str]:
    """Return the linear layers whose weight is stored in float32 and has whole groups in its rows."""
    return frozenset(n.name for n in graph.ops() if _able(graph, n))


def int4_nodes(graph: Graph) -> frozenset[str]:
    """Return the layers whose weight is in int4."""
    return frozenset(n.name for n in graph.ops() if n.op == _LINEAR and _is_int4(graph, n))


def quantize_int4(graph: Graph, selected: Collection[str], rows: bool) -> Graph:
    """Return the graph with the weights of the selected layers in int4, each on the nearest code.

    A weight `w` becomes `w_int4`, `w_scale` [out, in / GROUP] and `w_zero_point`, read back by `w_dq`.
    `rows` tells whether each row of activations is rounded to int8. Raises UnsupportedModelError where
    nothing selected can be int4.
    """
    able = int4_able(graph) & frozenset(selected)
    if not able:
        raise UnsupportedModelError(
            f"none of the {len(frozenset(selected))} selected operations can be int4: it takes linear layers "
            f"with a stored float32 weight whose number of inputs is a multiple of {GROUP}"
        )
    editor = Editor(graph)
    rounding, weights = RowRounding(editor), dict[Value, Value]()
    for node in [n for n in graph.ops() if n.name in able]:
        weight = node.operand("weight")
        if weight not in weights:
            weights[weight] = _stored(editor, node, weight)
        changes = {"weight": weights[weight]}
        if rows:
            changes["input"] = rounding.of(node.operand("input"), node)
        operands = tuple((key, changes.get(key, operand)) for key, operand in node.operands)
        editor.update(dataclasses.replace(node, operands=operands))
    editor.remove_unread({node.operand("weight").node for node in map(graph.node, able)})
    result = editor.finish()
    verify(result)
    return result


def _able(graph: Graph, node: Node) -> bool:
    weight = graph.constant(node.operand("weight")) if node.op == _LINEAR else None
    return weight is not None and weight.dtype is torch.float32 and weight.shape[1] % GROUP == 0


def _is_int4(graph: Graph, node: Node) -> bool:
    return graph.producer(node.operand("weight")).op == DEQUANTIZE


def _stored(editor: Editor, node: Node, weight: Value) -> Value:
    """Place a weight's codes and scales, and what reads them back."""
    tensor, origin = editor.graph.constant(weight), editor.graph.node(weight.node).origin
    assert tensor is not None
    scales = GRID.scales(tensor)
    narrow = scales[:, ::GROUP].contiguous()
    parts = {"int4": GRID.codes(tensor, scales).to(torch.int8), "scale": narrow}
    parts["zero_point"] = torch.zeros(narrow.shape, dtype=torch.int32)
    codes, scale, zero = (
        editor.constant(part, f"{weight.node}_{suffix}", origin, before=node.name)
        for suffix, part in parts.items()
    )
    operands = {"input": codes, "scales": scale, "zero_points": zero, "quant_min": _LOW, "quant_max": _HIGH}
    operands |= {"dtype": torch.int8, "group_size": GROUP, "output_dtype": torch.float32}
    kind = TensorType(tuple(tensor.shape), torch.float32)
    return editor.op(DEQUANTIZE, operands, [kind], f"{weight.node}_dq", origin, before=node.name)
