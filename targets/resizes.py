r"""Resizes in simpler operations, for runtimes whose converters know them not, or take other places.

**Nearest**, as picked rows and columns: torch's output :math:`i` reads :math:`\lfloor i\,s \rfloor` with
:math:`s` the input's size over the output's (or one over the factor given); with half-pixel centres it is
:math:`\lfloor (i + 1/2)\,s \rfloor`. The two agree where the output is a whole multiple of the input, and are
different pixels elsewhere.

**Smooth** (bicubic, and all with antialias), as two products: each is linear in each axis,
:math:`Y = R_h X R_w^\top`, and a matrix :math:`R` is what the operation makes of the identity, given along
its axis and constant along the other, whose weights sum to one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from compiler.evaluate import run_node
from compiler.ir.edit import Editor
from compiler.ir.graph import Node, Value
from targets.rewriting import Maker

NEAREST = tuple(f"aten.upsample_nearest{rank}d.vec" for rank in (1, 2, 3))
SMOOTH = (
    "aten._upsample_bilinear2d_aa.vec",
    "aten._upsample_bilinear2d_aa.default",
    "aten._upsample_bicubic2d_aa.vec",
    "aten._upsample_bicubic2d_aa.default",
    "aten.upsample_bicubic2d.vec",
)


def nearest(editor: Editor, node: Node) -> Sequence[Value]:
    """Write a nearest resize as an index of each axis; by whole factors, or of open sizes, it stays."""
    x = node.operand("input")
    type_ = editor.graph.type_of(x)
    if not type_.static or not node.type.static:
        return ()
    sizes = [d for d in type_.shape if isinstance(d, int)]
    places = {dim: _places(node, x, sizes, dim) for dim in range(2, len(sizes))}
    if all(_by_whole_factor(index, sizes[dim]) for dim, index in places.items()):
        return ()
    make, made = Maker(editor, node), x
    for dim, index in places.items():
        sizes[dim] = len(index)
        kept = editor.constant(index, f"{node.name}_places{dim}", node.origin, before=node.name)
        made = make.op("aten.index_select.default", (made, dim, kept), shape=sizes)
    return (made,)


def smooth(editor: Editor, node: Node) -> Sequence[Value]:
    """Write a resize of two axes as a matrix product along each; of open sizes, it stays."""
    x = node.operand("input" if any(key == "input" for key, _ in node.operands) else "self")
    type_ = editor.graph.type_of(x)
    if not type_.static or not node.type.static or not type_.dtype.is_floating_point:
        return ()
    height, width = (_matrix(node, x, type_.shape[2:], axis) for axis in (0, 1))
    make, across = Maker(editor, node), (*type_.shape[:3], node.type.shape[3])
    columns = make.op("aten.matmul.default", (x, make.constant(width.T, "columns")), shape=across)
    return (make.op("aten.matmul.default", (make.constant(height, "rows"), columns)),)


def _matrix(node: Node, x: Value, sizes: Sequence[Any], axis: int) -> torch.Tensor:
    """Return the matrix [places made, places read] of an axis in float64."""
    size, other = sizes[axis], sizes[1 - axis]
    basis = torch.eye(size, dtype=torch.float64)[None, :, :, None].expand(1, size, size, other)
    values: dict[Value, Any] = {x: (basis if axis == 0 else basis.mT).contiguous()}
    run_node(node, values, {})
    made: torch.Tensor = values[node.value][0]
    return (made[:, :, 0] if axis == 0 else made[:, 0]).T


def _places(node: Node, x: Value, sizes: Sequence[int], dim: int) -> torch.Tensor:
    """Return which place of an axis the operation takes for each of its own."""
    ramp = torch.arange(float(sizes[dim])).reshape(-1, *(1,) * (len(sizes) - 1 - dim))
    values: dict[Value, Any] = {x: ramp.expand(1, 1, *sizes[2:])}
    run_node(node, values, {})
    places = values[node.value].shape[dim]
    return values[node.value][0, 0].movedim(dim - 2, 0).reshape(places, -1)[:, 0].long()  # type: ignore[no-any-return]


def _by_whole_factor(index: torch.Tensor, size: int) -> bool:
    factor, rest = divmod(len(index), size)
    return not rest and torch.equal(index, torch.arange(len(index)) // factor)
