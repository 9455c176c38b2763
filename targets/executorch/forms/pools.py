"""Means and pools in the one spelling that XNNPACK takes.

`mean` over height and width keeps them and reshapes; pooling to one pixel is that mean. A pool
without padding never counts padding, which the partitioner wants to be told; it also expects the
stride in full, and fails on the default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from compiler.ir.edit import Editor
from compiler.ir.graph import Node, Value
from targets.rewriting import Maker


def mean(editor: Editor, node: Node) -> Sequence[Value]:
    """Keep the reduced dimensions of a spatial mean, then reshape them away."""
    x = node.operand("self")
    type_, dims = editor.graph.type_of(x), node.operand("dim")
    if node.operand("keepdim") or type_.rank != 4 or not dims or sorted(d % 4 for d in dims) != [2, 3]:
        return ()
    make = Maker(editor, node)
    options, kept_shape = {"dtype": node.operand("dtype")}, (*type_.shape[:2], 1, 1)
    kept = make.op("aten.mean.dim", (x, dims, True), options, shape=kept_shape)
    return (make.op("aten.reshape.default", (kept, node.type.shape)),)


def global_pool(editor: Editor, node: Node) -> Sequence[Value]:
    """Write pooling to one pixel as a mean: its decomposition depends on strides no delegate takes."""
    if set(node.operand("output_size")) != {1} or node.type.rank != 4:
        return ()
    return (Maker(editor, node).op("aten.mean.dim", (node.operand("self"), (2, 3), True)),)


def pool(editor: Editor, node: Node) -> Sequence[Value]:
    """Write out a stride left to its default, and that padding is not counted where there is none."""
    changes = {} if node.operand("stride") else {"stride": node.operand("kernel_size")}
    free = not any(node.operand("padding")) and not node.operand("ceil_mode")
    if free and node.operand("count_include_pad"):
        changes["count_include_pad"] = False
    operands = tuple((key, changes.get(key, value)) for key, value in node.operands)
    editor.update(dataclasses.replace(node, operands=operands))
    return ()
