"""Linear operations through a spectrum: probed, since their matrices are what torch computes.

`irfft(rfft(u, n) * K)[..., :m]` with a constant `K` is a convolution along the transformed axis (`merges.md`
2.18): an impulse at the first position gives the lags from zero on, one at the last position those before.
`irfft2` of a constant bank weighted by gates is a matrix over the gates (2.16). Both are linear in the
one real value they read, so what the probe finds either agrees on random input everywhere or is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from compiler.evaluate import run_node
from compiler.ir.graph import Graph, Node, Value
from compiler.merge import blocks, tap_map
from compiler.merge.affine_ops import AffineNode, Rule, is_data
from compiler.merge.arrangement import Arrangement
from compiler.merge.attempt import Refusal
from compiler.merge.form import Form
from compiler.merge.shift import push
from compiler.merge.sizes import bindings, constant

_INVERSE = ("aten.fft_irfft.default", "aten.fft_irfft2.default", "aten.fft_irfftn.default")
_LINEAR = (
    *_INVERSE,
    *(f"aten.fft_{k}.default" for k in ("rfft", "fft", "rfft2", "rfftn", "ifft", "fft2", "ifft2")),
    *(
        f"aten.{k}"
        for k in ("reshape.default", "permute.default", "index.Tensor", "slice.Tensor", "real.default")
    ),
    *(f"aten.{k}" for k in ("unsqueeze.default", "index_select.default", "constant_pad_nd.default")),
    "aten.select.int",
    "aten.view_as_complex.default",
    "aten.view_as_real.default",
)
_PICKS = tuple(f"aten.{k}" for k in ("select.int", "unsqueeze.default", "slice.Tensor", "index.Tensor"))
_MOST = 8192  # columns a probe measures one by one


@dataclass(frozen=True)
class Cone:
    """The operations between one real value and a result that is linear in it, in order."""

    source: Value
    nodes: tuple[Node, ...]
    result: Value


def _spectral(graph: Graph, node: Node, index: int) -> AffineNode | None:
    cone = _cone(graph, node)
    if cone is None or not graph.type_of(cone.source).static:
        return None

    def apply(forms: Sequence[Form]) -> Form:
        form = forms[0]
        if form.taps.rank == 0:
            return _matrix(graph, cone, form)
        if (
            form.arrangement is None
            and form.taps.rank == 1
            and tuple(graph.type_of(cone.result).shape) == form.shape
        ):
            return _convolution(graph, cone, form)
        raise Refusal("a spectrum over several axes", quiet=True)

    return AffineNode((cone.source,), apply, inside=tuple(n.name for n in cone.nodes[:-1]))


def _slice(graph: Graph, node: Node, index: int) -> AffineNode | None:
    """Return a slice of an inverse transform as one operation: the whole would wrap around."""
    source = node.operand("self")
    is_inverse = isinstance(source, Value) and graph.producer(source).op in _INVERSE
    alone = is_inverse and len(graph.uses(source)) == 1
    return _spectral(graph, node, index) if alone else None


def _cone(graph: Graph, node: Node) -> Cone | None:
    """Return the linear operations that lead to a node from one real value through complex ones."""
    order: dict[str, Node] = {}
    sources: set[Value] = set()
    through_complex = False

    def visit(current: Node) -> bool:
        nonlocal through_complex
        if current.name in order:
            return True
        data = [v for _, v in current.values() if _data(graph, v)]
        if not _is_linear(graph, current, data):
            return False
        for value in data:
            complex_ = graph.type_of(value).dtype.is_complex
            through_complex = through_complex or complex_
            inner = complex_ or graph.producer(value).op in (*_INVERSE, *_PICKS)
            if not inner:
                sources.add(value)
            elif not visit(graph.producer(value)):
                return False
        order[current.name] = current
        return True

    if not visit(node) or len(sources) != 1 or (not through_complex and not _mixes(graph, node)):
        return None
    return Cone(sources.pop(), tuple(order.values()), node.value)


def _mixes(graph: Graph, node: Node) -> bool:
    return node.op in _INVERSE


def _data(graph: Graph, value: Value) -> bool:
    return is_data(graph, value) and constant(graph, value) is None


def _is_linear(graph: Graph, node: Node, data: list[Value]) -> bool:
    if node.op in _LINEAR:
        return len(data) == 1
    if node.op == "aten.mul.Tensor":
        return len(data) == 1
    if node.op == "aten.index_put.default":
        into = constant(graph, node.operand("self"))
        return into is None or not bool(into.any())
    return node.op == "aten.add.Tensor" and len(data) == 2


@torch.no_grad()
def _run(graph: Graph, cone: Cone, start: torch.Tensor) -> torch.Tensor:
    """Return the cone's result in float64 for one input."""
    values: dict[Value, Any] = {cone.source: start}
    for node in cone.nodes:
        for _, value in node.values():
            if value not in values:
                values[value] = _wide(constant(graph, value))
        run_node(node, values, bindings(graph))
    result: torch.Tensor = values[cone.result]
    return result


def _wide(tensor: torch.Tensor | None) -> torch.Tensor:
    if tensor is None:
        raise Refusal("a spectrum that depends on something else", quiet=True)
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


def _matrix(graph: Graph, cone: Cone, form: Form) -> Form:
    """Return the form behind a linear map of the channels of each sample into any shape."""
    arranged, samples = form.arranged(), form.shape[0]
    columns, own = arranged.channels, torch.arange(samples).reshape(-1, *(1,) * (len(form.shape) - 1))
    if not bool((arranged.position == own).all()):
        raise Refusal("a spectrum over positions", quiet=True)
    if columns > _MOST:
        raise Refusal(f"a map of {columns} channels through a spectrum is not probed", quiet=True)
    shape = graph.type_of(cone.result).shape
    if not shape or shape[0] != samples:
        raise Refusal("a spectrum that mixes samples", quiet=True)
    responses = []
    for column in range(columns):
        responses.append(_run(graph, cone, (arranged.channel == column).double())[0].flatten())
    matrix = torch.stack(responses, 1)
    random = torch.randn(samples, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _check(_run(graph, cone, random.flatten()[arranged.code]).flatten(1), random @ matrix.mT)
    taps = tap_map.pointwise(blocks.dense(form.weight(matrix)), form.taps.out_size)
    sizes = tuple(int(d) for d in shape)  # type: ignore[arg-type]
    code = torch.arange(samples * len(matrix)).reshape(sizes)
    composed = tap_map.compose(form.taps, taps)
    arrangement = Arrangement(code, len(matrix))
    shift = push(taps, form.shift)
    return replace(form, taps=composed, shift=shift, shape=sizes, arrangement=arrangement, origin=None)


def _convolution(graph: Graph, cone: Cone, form: Form) -> Form:
    """Return the form behind a convolution of each channel along the grid."""
    (length,) = (s for i, s in enumerate(form.shape) if i not in (0, form.axis))
    axis = next(i for i in range(1, len(form.shape)) if i != form.axis)
    channels = form.shape[form.axis]

    def response(at: int) -> torch.Tensor:
        start = torch.zeros(form.shape, dtype=torch.float64)
        start.select(axis, at).fill_(1)
        return _run(graph, cone, start)[0].movedim(axis - 1, 0)  # [L, C]

    later, earlier = response(0), response(length - 1)
    kernel = torch.cat([earlier, later[1:]])  # lags -(L-1) .. L-1
    offsets = tuple((-lag,) for lag in range(1 - length, length))
    size = form.taps.out_size
    weight = blocks.grouped(kernel.reshape(-1, channels, 1, 1))
    whole = tap_map.plain(offsets, weight, (1,), (2 * length - 2 - (2 * length - 1),), size, size)
    _compare(graph, cone, form, whole, axis)
    taps = _trimmed(whole)
    if not form.real:
        taps = tap_map.with_blocks(taps, taps.blocks.with_weight(form.weight(taps.weight)))
    composed = tap_map.compose(form.taps, taps)
    return replace(form, taps=composed, shift=push(taps, form.shift), shape_only=True)


def _trimmed(taps: tap_map.TapMap) -> tap_map.TapMap:
    """Return the map without the taps at both ends that are zero up to the rounding of the transforms."""
    size = taps.weight.abs().flatten(1).amax(1)
    used = (size > 1e-12 * size.max()).nonzero().flatten().tolist() or [len(size) // 2]
    kept = slice(used[0], used[-1] + 1)
    offsets = taps.offsets[kept]
    slack = -offsets[0][0] + offsets[-1][0] - len(offsets)
    return replace(taps, offsets=offsets, blocks=taps.blocks.with_weight(taps.weight[kept]), slack=(slack,))


def _compare(graph: Graph, cone: Cone, form: Form, taps: tap_map.TapMap, axis: int) -> None:
    random = torch.randn(form.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = _run(graph, cone, random).movedim((form.axis, axis), (1, 2))
    given = random.movedim((form.axis, axis), (1, 2))
    length = given.shape[2]
    kernel = taps.weight.reshape(len(taps.offsets), -1).T[:, None]
    got = torch.nn.functional.conv1d(given, kernel, padding=length - 1, groups=given.shape[1])
    _check(wanted, got)


def _check(wanted: torch.Tensor, got: torch.Tensor) -> None:
    if wanted.shape != got.shape or float((wanted - got).abs().max()) > 1e-9 * float(wanted.abs().max()):
        raise Refusal("through its spectrum it is no convolution and no matrix over the channels", quiet=True)


RULES: dict[str, Rule] = {op: _spectral for op in _INVERSE}
slice_rule = _slice
