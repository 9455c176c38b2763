r"""Rewrites a graph into equal operations that the converter takes, before it sees it.

- An int8 weight read back by a dequantize, :math:`s (q - z)`, becomes the float weight with a quantize
  and a dequantize behind it: the converter knows a kernel's int8 weight by that pair, and stores it
  as :math:`q` again. The float weight is a point of the grid, so that the pair gives it back. Where
  the input stays float there is no such pair: `targets.litert.dynamic` writes the codes into the file. The
  rounding of rows that the graph holds in front of such a linear layer is the kernel's own.
- BatchNorm becomes :math:`s x + t`, and `repeat` concatenations: where litert-torch 0.10 moves channels
  behind, it leaves a `repeat` counting in the old order. An expansion that it leaves so, in front of what
  broadcasts anyway, is taken away; one of five axes, which it loses behind a transposition, becomes a
  concatenation. LiteRT pads five axes at most.
- A transposed convolution with groups or padding becomes one for each group without padding, cropped:
  LiteRT's has neither.
- A nearest resize by other than whole factors becomes picked rows and columns (`targets/resizes.py`): the
  converter asks for half-pixel places, which are others, and says nothing.
- A bicubic or antialiased resize, which it does not know, becomes a matrix product along each axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from compiler.compress.quantize_dynamic import is_dynamic
from compiler.compress.quantize_int4 import DEQUANTIZE as GROUPED
from compiler.evaluate import run_node
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, Value
from targets.resizes import NEAREST, SMOOTH, nearest, smooth
from targets.rewriting import Maker, Rule, affine_norm, rewrite

QUANTIZED = "quantized_decomposed."
MOST_AXES = 5  # of a padding
MOST_COPIES = 64
BROADCASTING = frozenset(f"aten.{name}.Tensor" for name in ("add", "sub", "mul", "div"))


def legalise(graph: Graph) -> Graph:
    """Return an equal graph in the operations the converter takes; the same graph where no rule applies."""
    return rewrite(graph, RULES)


def stored_weight(editor: Editor, node: Node) -> Sequence[Value]:
    """Write the dequantize of a constant as float constant, quantize, dequantize."""
    graph, stored = editor.graph, node.operand("input")
    if graph.constant(stored) is None:
        return ()
    values: dict[Value, Any] = {v: graph.constant(v) for _, v in node.values()}
    if any(tensor is None for tensor in values.values()):
        return ()
    run_node(node, values, {})
    weight = editor.constant(values[node.value], f"{node.name}_float", node.origin, before=node.name)
    if all(is_dynamic(graph, reader) for reader in graph.users(node.name)):
        return (weight,)
    kind = node.op.removeprefix(QUANTIZED + "de")
    operands = {key: v for key, v in node.operands if key not in ("input", "out_dtype")} | {"input": weight}
    stored_type, name = graph.type_of(stored), f"{node.name}_q"
    rest = (node.origin, node.source)
    codes = editor.op(QUANTIZED + kind, operands, [stored_type], name, *rest, before=node.name)
    back = {key: v for key, v in node.operands if key != "input"} | {"input": codes}
    return (editor.op(node.op, back, [node.type], f"{node.name}_dq", *rest, before=node.name),)


def rounded_rows(editor: Editor, node: Node) -> Sequence[Value]:
    """Drop the rounding of rows of an activation: the kernel of an integer weight makes it."""
    quantize = editor.graph.producer(node.operand("input"))
    return (quantize.operand("input"),)


def repeat(editor: Editor, node: Node) -> Sequence[Value]:
    """Write `repeat` as concatenations."""
    x = node.operand("self")
    type_, times = editor.graph.type_of(x), node.operand("repeats")
    if not type_.static or not all(isinstance(t, int) and t > 0 for t in times):
        return ()
    make = Maker(editor, node)
    shape = [1] * (len(times) - type_.rank) + list(type_.shape)
    made = make.op("aten.reshape.default", (x, tuple(shape)))
    for dim, count in enumerate(times):
        if count > 1:
            shape[dim] *= count
            made = make.op("aten.cat.default", ((made,) * count, dim), shape=shape)
    return (made,)


def transposed(editor: Editor, node: Node) -> Sequence[Value]:
    """Write a transposed convolution as one for each group without padding, side by side and cropped."""
    groups, x = node.operand("groups"), node.operand("input")
    weight, bias = (editor.graph.constant(node.operand(key)) for key in ("weight", "bias"))
    if weight is None or (bias is None and node.operand("bias") is not None) or not node.type.static:
        return ()
    pads, more = (_each(node.operand(key)) for key in ("padding", "output_padding"))
    if (groups == 1 and not any((*pads, *more))) or any(m > p for m, p in zip(more, pads, strict=True)):
        return ()
    make, taken = Maker(editor, node), editor.graph.type_of(x).shape
    shape = [d for d in node.type.shape if isinstance(d, int)]  # all are: the type is static
    full = [d + 2 * p - m for d, p, m in zip(shape[2:], pads, more, strict=True)]
    inner, outer = len(weight) // groups, weight.shape[1]
    options = {"stride": node.operand("stride"), "dilation": node.operand("dilation")}
    parts = []
    for i in range(groups):
        piece = (x, 1, i * inner, (i + 1) * inner, 1)
        part = x if groups == 1 else make.op("aten.slice.Tensor", piece, shape=(shape[0], inner, *taken[2:]))
        w = make.constant(weight[i * inner : (i + 1) * inner], f"weight{i}")
        b = None if bias is None else make.constant(bias[i * outer : (i + 1) * outer], f"bias{i}")
        call = (part, w), {"bias": b, **options}
        parts.append(make.op("aten.conv_transpose2d.input", *call, shape=(shape[0], outer, *full)))
    sizes = [shape[0], shape[1], *full]
    made = parts[0] if groups == 1 else make.op("aten.cat.default", (tuple(parts), 1), shape=sizes)
    for dim, pad in enumerate(pads, start=2):
        if sizes[dim] != shape[dim]:
            sizes[dim] = shape[dim]
            made = make.op("aten.slice.Tensor", (made, dim, pad, pad + shape[dim], 1), shape=sizes)
    return (made,)


def _each(amount: Any) -> tuple[int, int]:
    values = (amount,) if isinstance(amount, int) else tuple(amount)
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def expanded(editor: Editor, node: Node) -> Sequence[Value]:
    """Take away an expansion of rank 4 in front of what broadcasts anyway; a wider one becomes copies."""
    graph = editor.graph
    if node.type.rank > 4:
        return _copies(editor, node)

    def broadcasts(reader: Node) -> bool:
        others = [graph.type_of(v).shape for _, v in reader.values() if v != node.value]
        return reader.op in BROADCASTING and reader.type.shape in others

    editor.replace_uses(node.value, node.operand("self"), broadcasts)
    editor.remove_unread([node.name])
    return ()


def _copies(editor: Editor, node: Node) -> Sequence[Value]:
    """Write the expansion of one axis as a concatenation."""
    x: Any = node.operand("self")
    before, after = editor.graph.type_of(x).shape, node.type.shape
    grown = [i for i, (b, a) in enumerate(zip(before, after, strict=False)) if b != a]
    count = after[grown[0]] if len(before) == len(after) and len(grown) == 1 else 0
    if not isinstance(count, int) or not 1 < count <= MOST_COPIES:
        return ()
    return (Maker(editor, node).op("aten.cat.default", ((x,) * count, grown[0])),)


def padded(editor: Editor, node: Node) -> Sequence[Value]:
    """Write a padding of more than five axes over rows: the leading axes, which it leaves, as one."""
    shape = editor.graph.type_of(node.operand("self")).shape
    lead = len(shape) - len(node.operand("pad")) // 2
    if len(shape) <= MOST_AXES or lead < 2 or not all(isinstance(d, int) for d in (*shape, *node.type.shape)):
        return ()
    make = Maker(editor, node)
    rows = (math.prod(shape[:lead]), *shape[lead:])  # type: ignore[arg-type]
    flat = make.op("aten.reshape.default", (node.operand("self"), rows))
    larger = make.op(
        node.op, (flat, node.operand("pad"), node.operand("value")), shape=(rows[0], *node.type.shape[lead:])
    )
    return (make.op("aten.reshape.default", (larger, node.type.shape)),)


RULES: Mapping[str, Rule] = {
    "aten.batch_norm.default": affine_norm,
    "aten.constant_pad_nd.default": padded,
    "aten.expand.default": expanded,
    "aten.repeat.default": repeat,
    **dict.fromkeys(NEAREST, nearest),
    **dict.fromkeys(SMOOTH, smooth),
    "aten.conv_transpose2d.input": transposed,
    "quantized_decomposed.dequantize_per_channel.default": stored_weight,
    "quantized_decomposed.dequantize_per_tensor.default": stored_weight,
    GROUPED: stored_weight,
    "quantized_decomposed.dequantize_per_token.default": rounded_rows,
}
