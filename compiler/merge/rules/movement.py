"""Operations that move elements and compute nothing: run on integers to see where each one goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compiler.ir.graph import Graph, Node
from compiler.merge.affine_ops import AffineNode, Rule, is_data
from compiler.merge.arrangement import Arrangement
from compiler.merge.form import Form, Move, Origin
from compiler.merge.running import run_on
from compiler.merge.sizes import constant

_OPS = (
    "reshape.default",
    "permute.default",
    "expand.default",
    "unsqueeze.default",
    "squeeze.dim",
    "squeeze.dims",
    "squeeze.default",
    "flatten.using_ints",
    "unflatten.int",
    "select.int",
    "flip.default",
    "roll.default",
    "index_select.default",
    "index.Tensor",
    "pixel_shuffle.default",
    "pixel_unshuffle.default",
    "channel_shuffle.default",
    "native_channel_shuffle.default",
    "split.Tensor",
    "split_with_sizes.default",
    "chunk.default",
    "unbind.int",
    "repeat.default",
    "repeat_interleave.self_int",
    "narrow.default",
    "movedim.int",
    "swapaxes.default",
    "im2col.default",
)


def move(graph: Graph, node: Node, index: int) -> AffineNode | None:
    """Return a movement of one value, None where it needs a second value that is no constant."""
    source = node.operand("self", node.operand("input"))
    others = {v: constant(graph, v) for _, v in node.values() if v != source}
    if not is_data(graph, source) or any(t is None for t in others.values()):
        return None
    type_ = node.types[index]

    def apply(forms: Sequence[Form]) -> Form:
        form = forms[0]
        before = form.arranged()
        code = run_on(graph, node, source, before.code, others)[index]
        pending = (*form.pending, Move(node.name, type_, index))
        made = Arrangement(code, before.channels)
        here = Origin(graph.type_of(source), form.axis, len(form.pending))
        origin = here if form.arrangement is None else form.origin
        return replace(form, shape=tuple(code.shape), arrangement=made, pending=pending, origin=origin)

    return AffineNode((source,), apply, relabels=True)


RULES: dict[str, Rule] = {f"aten.{op}": move for op in _OPS}
