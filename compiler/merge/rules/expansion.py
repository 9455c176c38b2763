"""Channels spread by constants, and summed again: `sum_i a_i K_i` is a matrix over `a` (`merges.md` 1.11).

A product that broadcasts its data against a larger constant gives each element a row of its own; a sum over
elements of one position adds their rows. A bank of kernels mixed by coefficients that are only known at
run time is one linear layer whose output is the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from compiler.ir.graph import Graph, Node
from compiler.merge import blocks, tap_map
from compiler.merge.affine_ops import AffineNode, Rule, is_data
from compiler.merge.arrangement import Arrangement
from compiler.merge.attempt import Refusal
from compiler.merge.form import Form
from compiler.merge.shift import push
from compiler.merge.sizes import constant

_MOST = 1 << 20  # elements of a matrix that is worth considering


def expanding(graph: Graph, node: Node) -> AffineNode | None:
    """Return a product of broadcast data with a constant that is larger than it."""
    left, right = node.operand("self"), node.operand("other")
    if not is_data(graph, left):
        left, right = right, left
    factor = constant(graph, right)
    if not is_data(graph, left) or factor is None or factor.is_complex() or not node.type.static:
        return None
    shape = tuple(int(d) for d in node.type.shape)  # type: ignore[arg-type]

    def apply(forms: Sequence[Form]) -> Form:
        form = forms[0]
        code = form.arranged().code.expand(shape)
        return _with_rows(form, code, factor.expand(shape), torch.arange(code.numel()).reshape(shape))

    return AffineNode((left,), apply)


def _sum(graph: Graph, node: Node, _: int) -> AffineNode | None:
    source, dims = node.operand("self"), node.operand("dim")
    if not is_data(graph, source) or not dims or not node.type.static or node.operand("dtype") is not None:
        return None
    keep = bool(node.operand("keepdim"))

    def apply(forms: Sequence[Form]) -> Form:
        form = forms[0]
        code = form.arranged().code
        kept = [1 if i in {d % code.dim() for d in dims} else s for i, s in enumerate(code.shape)]
        index = torch.arange(node.type.elements()).reshape(kept)
        result = _with_rows(form, code, torch.ones(code.shape), index.expand(code.shape))
        arrangement = result.arrangement
        assert arrangement is not None
        shaped = _first(arrangement.code, dims, keep)
        return replace(result, shape=tuple(shaped.shape), arrangement=replace(arrangement, code=shaped))

    return AffineNode((source,), apply)


def _first(code: torch.Tensor, dims: Sequence[int], keep: bool) -> torch.Tensor:
    """Return the code of each sum: all elements it adds carry the same one."""
    for dim in sorted((d % code.dim() for d in dims), reverse=True):
        code = code.narrow(dim, 0, 1) if keep else code.select(dim, 0)
    return code


def _with_rows(form: Form, code: torch.Tensor, factor: torch.Tensor, group: torch.Tensor) -> Form:
    """Return the form whose rows are `sum factor * channel` over the elements of each group."""
    channels = form.arranged().channels
    position, channel = code // channels, code % channels
    own = torch.arange(len(code)).reshape(-1, *(1,) * (code.dim() - 1))
    samples = len(code) if form.positions > 1 else 1
    if samples > 1 and bool((position == own).all()):  # the same rows for every sample
        per = (int(group.max()) + 1) // samples
        group = group - own * per
    else:
        per = int(group.max()) + 1
    apart = samples == form.positions and int(group.min()) >= 0 and int(group.max()) < per
    if not apart or not form.taps.pointwise:
        raise Refusal("it spreads the channels of several positions", quiet=True)
    if per * channels > _MOST:
        raise Refusal(f"a matrix of {per} x {channels} for one operation is not considered", quiet=True)
    matrix = torch.zeros(per, channels, dtype=torch.float64)
    first = slice(0, 1) if samples > 1 else slice(None)
    index = (group[first].flatten(), channel[first].flatten())
    matrix.index_put_(index, factor[first].double().flatten(), accumulate=True)
    if samples > 1 and not bool((factor == factor[:1]).all() and (group == group[:1]).all()):
        raise Refusal("it spreads each sample differently", quiet=True)
    taps = tap_map.pointwise(blocks.dense(form.weight(matrix)), form.taps.out_size)
    composed = tap_map.compose(form.taps, taps)
    arrangement = Arrangement(position * per + group, per)
    shift = push(taps, form.shift)
    return replace(
        form, taps=composed, shift=shift, shape=tuple(code.shape), arrangement=arrangement, origin=None
    )


RULES: dict[str, Rule] = {"aten.sum.dim_IntList": _sum}
