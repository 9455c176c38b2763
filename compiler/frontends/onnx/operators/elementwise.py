"""Operators on each element: arithmetic, comparisons, logic, activations, casts."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compiler.errors import UnsupportedModelError
from compiler.frontends.onnx.dtypes import wrapped
from compiler.frontends.onnx.module import Call
from compiler.frontends.onnx.registry import op

# torch has few operations on these.
_WIDE = (torch.uint16, torch.uint32, torch.uint64)

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}


def _div(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Div": _div,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}


def widened(run: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Run an operation on unsigned types that torch has few kernels for, in int64.

    What is 2^63 or more is negative there: sums, products and bitwise operations come out right, others not.
    """
    if tensors[0].dtype not in _WIDE:
        return run(*tensors)
    result = run(*(t.to(torch.int64) for t in tensors))
    return result.to(tensors[0].dtype) if result.dtype == torch.int64 else result


def _register_tables() -> None:
    for name, unary in _UNARY.items():
        op(name)(lambda call, x, run=unary: widened(run, x))
    for name, binary in _BINARY.items():
        op(name)(lambda call, a, b, run=binary: widened(run, *_broadcast(call, a, b)))


def _broadcast(call: Call, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Before version 7 the second operand was aligned at `axis`, and only where `broadcast` was set."""
    axis = call.attr("axis") if call.version < 7 else None
    if axis is None or b.dim() == 0:
        return a, b
    return a, b.reshape(*b.shape, *(1,) * (a.dim() - axis % a.dim() - b.dim()))


_register_tables()


@op("Sum")
def add_all(call: Call, *tensors: Tensor) -> Tensor:
    """Add tensors that broadcast."""
    return reduce(torch.add, tensors)


@op("Mean")
def mean_of(call: Call, *tensors: Tensor) -> Tensor:
    """Average tensors that broadcast."""
    return reduce(torch.add, tensors) / len(tensors)


@op("Max")
def maximum(call: Call, *tensors: Tensor) -> Tensor:
    """Take the largest, element by element."""
    return widened(lambda *t: reduce(torch.maximum, t), *tensors)


@op("Min")
def minimum(call: Call, *tensors: Tensor) -> Tensor:
    """Take the smallest, element by element."""
    return widened(lambda *t: reduce(torch.minimum, t), *tensors)


@op("Mod")
def mod(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """Python's remainder, or C's with `fmod`."""
    return widened(torch.fmod if call.attr("fmod", 0) else torch.remainder, a, b)


@op("Pow")
def power(call: Call, base: Tensor, exponent: Tensor) -> Tensor:
    """Keep the type of the base."""
    if not base.is_floating_point() and exponent.is_floating_point():
        return torch.pow(base.to(torch.float64), exponent).to(base.dtype)
    return torch.pow(base, exponent.to(torch.int64) if exponent.dtype in _WIDE else exponent).to(base.dtype)


@op("BitShift")
def bit_shift(call: Call, a: Tensor, by: Tensor) -> Tensor:
    """Shift unsigned integers."""
    run = torch.bitwise_left_shift if call.attr("direction") == "LEFT" else torch.bitwise_right_shift
    return widened(run, a, by)


@op("BitCast")
def bit_cast(call: Call, x: Tensor) -> Tensor:
    """Read the same bits as another type of the same width."""
    return x.view(call.dtype(call.attr("to")))


@op("IsInf")
def is_inf(call: Call, x: Tensor) -> Tensor:
    """Tell infinities, those of one sign where the other is not asked for."""
    below, above = call.attr("detect_negative", 1), call.attr("detect_positive", 1)
    if not below:
        return torch.isposinf(x) if above else torch.zeros_like(x, dtype=torch.bool)
    return torch.isinf(x) if above else torch.isneginf(x)


@op("Where")
def where(call: Call, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Choose between two tensors."""
    return torch.where(condition, a, b)


@op("Clip", slots=True)
def clip(call: Call, x: Any, low: Any = None, high: Any = None) -> Tensor:
    """Clamp to bounds: attributes before version 11, inputs after."""
    x = call.tensor(x)
    bounds = [_bound(call, low, "min"), _bound(call, high, "max")]
    if bounds == [None, None]:
        return x.clone()  # type: ignore[no-any-return]
    if any(isinstance(b, Tensor) for b in bounds):
        bounds = [
            b if b is None or isinstance(b, Tensor) else torch.full((), b, dtype=x.dtype) for b in bounds
        ]
    return widened(lambda t: torch.clamp(t, *bounds), x)


def _bound(call: Call, slot: Any, name: str) -> Any:
    if slot is None:
        return call.attr(name)
    if slot.array is None or slot.symbolic:
        return call.tensor(slot)
    return slot.array.item() if slot.array.size else None


@op("Cast")
def cast(call: Call, x: Tensor) -> Tensor:
    """Convert to another type."""
    code = call.attr("to")
    return wrapped(_converted(call, x, call.dtype(code)), code)


@op("CastLike", slots=True)
def cast_like(call: Call, x: Any, like: Any) -> Tensor:
    """Convert to the type of another tensor."""
    return wrapped(_converted(call, call.tensor(x), call.tensor(like).dtype), like.code)


def _converted(call: Call, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert; to eight floating bits what is too large becomes the largest, unless `saturate` is 0."""
    narrow = dtype.is_floating_point and dtype.itemsize == 1 and x.dtype != dtype
    if narrow and (dtype == torch.float8_e8m0fnu or not call.attr("saturate", 1)):
        raise UnsupportedModelError(f"a cast to {dtype} that does not saturate rounds otherwise than torch's")
    if narrow and x.is_floating_point():
        most = torch.finfo(dtype).max
        x = torch.clamp(x.to(torch.float32) if x.itemsize == 1 else x, -most, most)
    return x.to(dtype)


@op("Identity", slots=True)
def identity(call: Call, x: Any) -> Any:
    """Return the value."""
    return x


@op("Dropout", slots=True)
def dropout(call: Call, x: Any, ratio: Any = None, training: Any = None) -> Any:
    """Return the value; in training mode it draws random numbers, unless it drops nothing."""
    trains = training is not None and bool(training.as_array("the mode of Dropout must be known").item())
    drops = 0.5 if ratio is None else float(ratio.as_array("the ratio of Dropout must be known").item())
    if trains and drops > 0:
        raise UnsupportedModelError("Dropout in training mode draws random numbers")
    return x, torch.ones_like(call.tensor(x), dtype=torch.bool if call.version >= 10 else None)


@op("PRelu")
def prelu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    """Scale what is negative by a slope that broadcasts."""
    if x.dim() == 4 and slope.dim() == 3 and slope.shape[0] == x.shape[1] and slope.shape[1:] == (1, 1):
        return F.prelu(x, slope.reshape(-1))
    return torch.where(x < 0, x * slope, x)


@op("LeakyRelu")
def leaky_relu(call: Call, x: Tensor) -> Tensor:
    """Scale what is negative by `alpha`."""
    return F.leaky_relu(x, call.attr("alpha", 0.01))


@op("ThresholdedRelu")
def thresholded_relu(call: Call, x: Tensor) -> Tensor:
    """Zero what is not above `alpha`."""
    return torch.where(x > call.attr("alpha", 1.0), x, torch.zeros_like(x))


@op("HardSigmoid")
def hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    """Clamp `alpha x + beta` to [0, 1]."""
    alpha, beta = call.attr("alpha", 0.2), call.attr("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(alpha * x + beta, 0, 1)


@op("Elu")
def elu(call: Call, x: Tensor) -> Tensor:
    """Exponential below zero."""
    return F.elu(x, call.attr("alpha", 1.0))


@op("Celu")
def celu(call: Call, x: Tensor) -> Tensor:
    """Continuously differentiable ELU."""
    return F.celu(x, call.attr("alpha", 1.0))


@op("Selu")
def selu(call: Call, x: Tensor) -> Tensor:
    """Scaled ELU."""
    alpha, gamma = (
        call.attr("alpha", 1.67326319217681884765625),
        call.attr("gamma", 1.05070102214813232421875),
    )
    return gamma * (torch.clamp(x, min=0) + torch.clamp(alpha * (torch.exp(x) - 1), max=0))  # type: ignore[no-any-return]


@op("Gelu")
def gelu(call: Call, x: Tensor) -> Tensor:
    """Gaussian error linear unit."""
    return F.gelu(x, approximate=call.attr("approximate", "none"))


@op("Swish")
def swish(call: Call, x: Tensor) -> Tensor:
    """`x sigmoid(alpha x)`."""
    alpha = call.attr("alpha", 1.0)
    return F.silu(x) if alpha == 1 else x * torch.sigmoid(alpha * x)


@op("Softplus")
def softplus(call: Call, x: Tensor) -> Tensor:
    """`log(1 + exp x)`."""
    return F.softplus(x)


@op("Shrink")
def shrink(call: Call, x: Tensor) -> Tensor:
    """Move towards zero by `bias` outside `lambd`, to zero inside."""
    bias, bound = call.attr("bias", 0.0), call.attr("lambd", 0.5)
    zero = torch.zeros_like(x)
    return torch.where(x < -bound, x + bias, torch.where(x > bound, x - bias, zero)).to(x.dtype)
