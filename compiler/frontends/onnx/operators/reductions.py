"""Reductions, products of matrices, and running sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compiler.frontends.onnx.dtypes import Array
from compiler.frontends.onnx.module import Call
from compiler.frontends.onnx.operators.elementwise import widened
from compiler.frontends.onnx.operators.shapes import axes_of, scalar
from compiler.frontends.onnx.registry import op

Reduce = Callable[[Tensor, list[int], bool], Tensor]


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keepdim=keep, dtype=x.dtype)
    return x


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.sum(x, axes, keepdim=keep, dtype=x.dtype)


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.mean(x, axes, keepdim=keep)
    return torch.mean(x.to(torch.float64), axes, keepdim=keep).to(x.dtype)


def _extreme(run: Any) -> Reduce:
    def reduce(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        if x.dtype == torch.bool:
            return run(x.to(torch.uint8), axes, keepdim=keep) > 0  # type: ignore[no-any-return]
        return widened(lambda t: run(t, axes, keepdim=keep), x)

    return reduce


_REDUCTIONS: dict[str, Reduce] = {
    "ReduceSum": _sum,
    "ReduceMean": _mean,
    "ReduceMax": _extreme(torch.amax),
    "ReduceMin": _extreme(torch.amin),
    "ReduceProd": _prod,
    "ReduceL1": lambda x, axes, keep: _sum(torch.abs(x), axes, keep),
    "ReduceL2": lambda x, axes, keep: _root(x, _sum(x * x, axes, keep)),
    "ReduceSumSquare": lambda x, axes, keep: _sum(x * x, axes, keep),
    "ReduceLogSum": lambda x, axes, keep: torch.log(_sum(x, axes, keep)),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep),
}


def _root(x: Tensor, square: Tensor) -> Tensor:
    return torch.sqrt(square) if x.is_floating_point() else torch.sqrt(square.to(torch.float64)).to(x.dtype)


def _reduced(call: Call, x: Tensor, axes: Array | None, run: Reduce) -> Tensor:
    found = axes_of(call, axes, x.dim())
    if not found:
        if call.attr("noop_with_empty_axes", 0):
            found = []
            return run(x.unsqueeze(-1), [x.dim()], False)
        found = list(range(x.dim()))
    if not found:  # a scalar
        return run(x.unsqueeze(0), [0], False)
    if any(x.shape[a] == 0 for a in found if isinstance(x.shape[a], int)):
        return _empty(x, found, bool(call.attr("keepdims", 1)), call.step.op)
    return run(x, found, bool(call.attr("keepdims", 1)))


def _empty(x: Tensor, axes: list[int], keep: bool, op_: str) -> Tensor:
    """Reduce nothing: to the neutral element."""
    integer = None if x.is_floating_point() or x.dtype == torch.bool else torch.iinfo(x.dtype)
    if op_ in ("ReduceMax", "ReduceMin"):
        low, high = (integer.min, integer.max) if integer else (-torch.inf, torch.inf)
        if x.dtype == torch.bool:
            low, high = False, True
        value: Any = low if op_ == "ReduceMax" else high
    else:
        value = {"ReduceProd": 1, "ReduceLogSum": -torch.inf, "ReduceLogSumExp": -torch.inf}.get(op_, 0)
        value = torch.nan if op_ == "ReduceMean" else value
    shape = [1 if a in axes else d for a, d in enumerate(x.shape) if keep or a not in axes]
    return torch.full(shape, value, dtype=x.dtype)


def _register() -> None:
    for name, run in _REDUCTIONS.items():
        op(name, host=(1,))(lambda call, x, axes=None, run=run: _reduced(call, x, axes, run))


_register()


@op("ArgMax", "ArgMin")
def arg_extreme(call: Call, x: Tensor) -> Tensor:
    """Return where the largest or smallest element is, the first or the last of several."""
    axis, keep = call.attr("axis", 0) % x.dim(), bool(call.attr("keepdims", 1))
    run = torch.argmax if call.step.op == "ArgMax" else torch.argmin
    if not call.attr("select_last_index", 0):
        return run(x, axis, keepdim=keep)
    result: Tensor = x.shape[axis] - 1 - run(x.flip(axis), axis, keepdim=keep)
    return result


@op("TopK", host=(1,))
def top_k(call: Call, x: Tensor, k: Array | None = None) -> tuple[Tensor, Tensor]:
    """Return the k largest or smallest and where they are."""
    count = call.attr("k") if k is None else int(k.item())
    axis, largest = call.attr("axis", -1), bool(call.attr("largest", 1))
    # A stable sort, for the first of equals comes first.
    values, places = torch.sort(x, dim=axis, descending=largest, stable=True)
    return values.narrow(axis, 0, count), places.narrow(axis, 0, count)


@op("MatMul")
def matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices, or stacks of them; a stored right matrix is a layer's weight."""
    return torch.matmul(a, b)


@op("Gemm")
def gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """`alpha A' B' + beta C`, a linear layer where the factors are 1."""
    alpha, beta = call.attr("alpha", 1.0), call.attr("beta", 1.0)
    a = a.T if call.attr("transA", 0) else a
    weight = b if call.attr("transB", 0) else b.T
    plain = alpha == 1 and (c is None or (beta == 1 and c.dim() == 1 and c.shape[0] == weight.shape[0]))
    if plain and a.is_floating_point():
        return torch.nn.functional.linear(a, weight, c)
    result = torch.matmul(a, weight.T)
    result = result if alpha == 1 else (alpha * result).to(a.dtype)
    return result if c is None else result + (c if beta == 1 else (beta * c).to(c.dtype))


@op("Einsum")
def einsum(call: Call, *tensors: Tensor) -> Tensor:
    """Sum products over named axes."""
    equation = call.attr("equation").replace(" ", "")
    return torch.einsum(equation, *tensors)


@op("CumSum", "CumProd", slots=True)
def running(call: Call, x: Any, axis: Any) -> Tensor:
    """Sum or multiply what came before, without itself where `exclusive`, from the end where `reverse`."""
    x, dim = call.tensor(x), int(scalar(axis, "the axis of a running sum must be known"))
    total, neutral = (torch.cumsum, 0) if call.step.op == "CumSum" else (torch.cumprod, 1)
    x = x.flip(dim) if call.attr("reverse", 0) else x
    if call.attr("exclusive", 0):
        head = torch.full_like(x.narrow(dim, 0, 1), neutral)
        x = torch.cat([head, x.narrow(dim, 0, x.shape[dim] - 1)], dim)
    result = total(x, dim, dtype=x.dtype)
    return result.flip(dim) if call.attr("reverse", 0) else result


@op("Det")
def determinant(call: Call, x: Tensor) -> Tensor:
    """Return the determinant of each matrix."""
    result: Tensor = torch.linalg.det(x)
    return result
