"""Matrix products with a constant: linear, mm, bmm, matmul and their biased forms (`merges.md` 1.8).

The constant has batch axes of its own (block-diagonal chains), and the data may be spread over
heads or blocks: wherever the contracted elements are channels of one position, the product is
one matrix over the channels. Each distinct (constant matrix, tuple of channels) pair gives a group of
result channels, stored as one block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product as product_of

import torch

from compiler.ir.graph import Graph, Node, Operand, Value
from compiler.merge import blocks, tap_map
from compiler.merge.affine_ops import AffineNode, Rule, is_data
from compiler.merge.arrangement import Arrangement
from compiler.merge.attempt import Refusal
from compiler.merge.blocks import Blocks
from compiler.merge.form import Form, settled
from compiler.merge.rules.channelwise import shifted
from compiler.merge.shift import push
from compiler.merge.sizes import constant

_MOST_TAPS = 4096


def _linear(graph: Graph, node: Node, _: int) -> AffineNode | None:
    weight = constant(graph, node.operand("weight"))
    return None if weight is None else product(graph, node, node.operand("input"), weight.mT, "bias")


def _matmul(graph: Graph, node: Node, _: int) -> AffineNode | None:
    names = [n for n in ("self", "mat2", "other", "tensor2") if node.operand(n) is not None][:2]
    left, right = (node.operand(n) for n in names)
    return _two_sided(graph, node, left, right, None)


def _biased(graph: Graph, node: Node, _: int) -> AffineNode | None:
    names = ("mat1", "mat2") if node.operand("mat1") is not None else ("batch1", "batch2")
    if node.operand("beta", 1) != 1 or node.operand("alpha", 1) != 1:
        return None
    return _two_sided(graph, node, node.operand(names[0]), node.operand(names[1]), "self")


def _two_sided(
    graph: Graph, node: Node, left: Operand, right: Operand, bias: str | None
) -> AffineNode | None:
    first, second = constant(graph, left), constant(graph, right)
    if second is not None and second.dim() > 1 and is_data(graph, left):
        return product(graph, node, left, second, bias)
    if first is not None and first.dim() > 1 and is_data(graph, right):
        return product(graph, node, right, first.mT, bias, transposed=True)
    return None


def product(
    graph: Graph, node: Node, source: Value, matrix: torch.Tensor, bias: str | None, transposed: bool = False
) -> AffineNode | None:
    """Return `data @ matrix + bias`, `matrix` [..., P, Q]; `transposed`: of the data's last two axes."""
    added = constant(graph, node.operand(bias)) if bias else None
    absent = bias is not None and node.operand(bias) is not None and added is None
    if absent or not is_data(graph, source) or graph.type_of(source).rank < 2:
        return None

    def apply(forms: Sequence[Form]) -> Form:
        form = forms[0]
        whole = form.arrangement is None and form.axis == len(form.shape) - 1
        if whole and matrix.dim() == 2 and not transposed:
            result = _whole(form, matrix)
        else:
            result = settled(_contracted(form, matrix, transposed))
        return shifted(result, added)

    return AffineNode((source,), apply)


def _whole(form: Form, matrix: torch.Tensor) -> Form:
    taps = tap_map.pointwise(blocks.dense(form.weight(matrix.mT)), form.taps.out_size)
    composed = tap_map.compose(form.taps, taps)
    shape = (*form.shape[:-1], matrix.shape[-1])
    return replace(form, taps=composed, shift=push(taps, form.shift), shape=shape)


def _contracted(form: Form, matrix: torch.Tensor, transposed: bool) -> Form:
    before = form.arranged()
    code = before.code.mT if transposed else before.code
    inner, width = matrix.shape[-2:]
    if not bool((code // before.channels == code[..., :1] // before.channels).all()):
        return _over_grid(form, matrix, code, before.channels)
    which, stored = _distinct(matrix, code.dim())
    channels = (code % before.channels).reshape(-1, inner)
    lead = code.shape[:-1]
    if any(own not in (1, size) for own, size in zip(which.shape, lead, strict=True)):
        raise Refusal("it multiplies one operand with several matrices", quiet=True)
    index = which.expand(lead).reshape(-1, 1)
    pairs, group = torch.unique(torch.cat([index, channels], 1), dim=0, return_inverse=True)
    made = group.reshape(*lead, 1) * width + torch.arange(width)
    total = len(pairs) * width
    position = (code[..., :1] // before.channels).expand(made.shape)
    taps = tap_map.pointwise(_matrices(form, stored, pairs, before.channels), form.taps.out_size)
    composed = tap_map.compose(form.taps, taps)
    result = position * total + made
    result = result.mT if transposed else result
    arrangement = Arrangement(result, total)
    shift = push(taps, form.shift)
    made_of = replace(form, taps=composed, shift=shift, shape=tuple(result.shape), arrangement=arrangement)
    return replace(made_of, origin=None)


def _over_grid(form: Form, matrix: torch.Tensor, code: torch.Tensor, channels: int) -> Form:
    """Return the form behind `flatten -> linear`: a convolution as large as the image."""
    grid = tuple(d for d in form.taps.out_size if isinstance(d, int))
    count = math.prod(grid)
    samples = code // channels // count if len(grid) == form.taps.rank and grid else code
    whole = matrix.dim() == code.dim() == 2 and code.shape[1] == count * channels
    local = code - samples * count * channels
    if not whole or not bool((samples == samples[:, :1]).all()) or not bool((local == local[:1]).all()):
        raise Refusal("it multiplies over positions, not over channels", quiet=True)
    if len(form.taps.offsets) * count > _MOST_TAPS:
        raise Refusal(
            f"one kernel of {len(form.taps.offsets)} x {count} taps is nothing to consider", quiet=True
        )
    wide = form.weight(matrix)
    order = local[0].argsort().to(wide.device)
    weight = wide[order].reshape(count, channels, -1).mT[:, None]
    offsets = tuple(product_of(*map(range, grid)))
    one = (1,) * len(grid)
    taps = tap_map.plain(offsets, blocks.grouped(weight), grid, tuple(-g for g in grid), grid, one)
    composed = tap_map.compose(form.taps, taps)
    lead = len(code)
    shape = (lead, matrix.shape[1])
    moved = push(taps, form.shift)
    return replace(
        form, taps=composed, shift=moved, shape=shape, axis=1, arrangement=None, pending=(), positions=lead
    )


def _distinct(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which of the distinct matrices each leading index uses, and those matrices, [K, P, Q]."""
    own = [1 if stride == 0 else size for size, stride in zip(matrix.shape, matrix.stride(), strict=True)][
        :-2
    ]
    for axis, size in enumerate(own):
        matrix = matrix.narrow(axis, 0, size)
    count = matrix[..., 0, 0].numel()
    which = torch.arange(count).reshape((*(1,) * (rank - 2 - len(own)), *own, 1))
    return which, matrix.reshape(count, *matrix.shape[-2:])


def _matrices(form: Form, stored: torch.Tensor, pairs: torch.Tensor, columns: int) -> Blocks:
    """Return one block of rows for each (matrix, channels) pair."""
    inner = stored.shape[1]
    start = pairs[:, 1]
    together = bool((pairs[:, 1:] == start[:, None] + torch.arange(inner)).all())
    weight = form.weight(stored).mT[pairs[:, 0].to("cpu" if form.real else "meta")]
    if together and columns % inner == 0 and bool((start % inner == 0).all()):
        return Blocks(weight[None], tuple((start // inner).tolist()), columns)
    spread = weight.new_zeros(len(pairs), stored.shape[2], columns)
    index = pairs[:, 1:].to(weight.device)[:, None, :].expand(weight.shape)
    spread.scatter_add_(2, index, weight)
    return Blocks(spread[None], (0,) * len(pairs), columns)


RULES: dict[str, Rule] = {
    "aten.linear.default": _linear,
    **{f"aten.{op}.default": _matmul for op in ("mm", "bmm", "matmul")},
    "aten.addmm.default": _biased,
    "aten.baddbmm.default": _biased,
}
