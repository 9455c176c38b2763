r"""Nearest resizes as picked rows and columns, for runtimes whose converters take other places.

torch's output :math:`i` reads :math:`\lfloor i\,s \rfloor` with :math:`s` the input's size over the output's
(or one over the factor given); with half-pixel centres it is :math:`\lfloor (i + 1/2)\,s \rfloor`. The two
agree where the output is a whole multiple of the input, and are different pixels elsewhere.
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
