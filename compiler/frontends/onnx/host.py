"""Operations on what is known while the graph is walked: computed once, on the host.

Arrays of numbers go through ONNX's own reference implementation. Sizes only known at run time are
symbolic integers in arrays of objects, for which NumPy does the few operations that shapes are made with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from compiler.errors import UnsupportedModelError
from compiler.frontends.onnx.dtypes import Array
from compiler.frontends.onnx.values import Slot

if TYPE_CHECKING:
    from compiler.frontends.onnx.module import Call

_NUMPY = {
    torch.float16: np.float16,
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.int32: np.int32,
    torch.int64: np.int64,
}
_LARGEST = 1 << 16  # elements; what is larger is left to the graph's own passes
_NEVER = {
    "Loop",
    "If",
    "Scan",
    "SequenceMap",
    "Constant",
    "Shape",
    "Size",
    "Dropout",
    "Bernoulli",
    "Multinomial",
}


def fold(call: Call, inputs: Sequence[Any]) -> Sequence[Any] | None:
    """Return a node's results where all its inputs are known, None where they are not."""
    op = call.step.op
    if not inputs or op in _NEVER or op.startswith(("Random", "Sequence", "Optional")) or call.step.domain:
        return None
    if op == "CastLike" and isinstance(inputs[0], Slot) and inputs[0].known and not inputs[0].symbolic:
        return _cast_like(call, inputs[0].as_array(op), inputs[1])
    if not all(s is None or (isinstance(s, Slot) and s.known) for s in inputs):
        return None
    arrays = [None if s is None else s.array for s in inputs]
    if op in ("Squeeze", "Unsqueeze") or any(a is not None and a.dtype == object for a in arrays):
        function = _SYMBOLIC.get(op)
        whole = all(a is None or a.dtype == object or a.dtype.kind in "iub" for a in arrays)
        if op == "Cast" and call.attr("to") in (6, 7):  # sizes stay what they are as int32 and int64
            return (arrays[0],)
        return None if function is None or not whole else (function(call, *arrays),)
    return _evaluate(call, arrays)


def _cast_like(call: Call, array: Array, like: Slot) -> Sequence[Any] | None:
    dtype = call.tensor(like).dtype
    dtype = torch.float32 if dtype == call.floating else dtype
    if dtype == torch.bfloat16:
        return (Slot("", array=array.astype(np.float32), known=True, dtype=dtype),)
    return None if like.code is not None or dtype not in _NUMPY else (array.astype(_NUMPY[dtype]),)


def _evaluate(call: Call, arrays: Sequence[Array | None]) -> Sequence[Any] | None:
    from onnx.reference import ReferenceEvaluator

    proto = call.step.proto
    opsets = {k: v for k, v in call.step.opsets.items() if k in ("", "ai.onnx.ml")}
    try:
        with np.errstate(all="ignore"):
            runner = ReferenceEvaluator(proto, opsets=opsets)
            given = {n: a for n, a in zip(proto.input, arrays, strict=True) if n and a is not None}
            found = runner.run(None, given)
    except Exception:  # the reference refuses in many ways; torch has the say then
        return None
    results = [np.asarray(f) for f in found]
    if any(r.size > _LARGEST or r.dtype.isbuiltin != 1 or r.dtype.kind not in "fiub" for r in results):
        return None
    return results


def _divide(call: Call, a: Array, b: Array) -> Array:
    _positive(b)
    return np.asarray(a // b, dtype=object)


def _modulo(call: Call, a: Array, b: Array) -> Array:
    _positive(b)
    return np.asarray(a % b, dtype=object)


def _positive(divisor: Array) -> None:
    """Sizes are not negative: by a positive number, rounding down is rounding towards zero."""
    if any(not isinstance(v, torch.SymInt) and v <= 0 for v in divisor.reshape(-1)):
        raise UnsupportedModelError(
            "a size that is only known at run time is divided by what is not positive"
        )


def _axes(call: Call, given: Array | None) -> list[int]:
    return [int(a) for a in (call.attr("axes", []) if given is None else given.reshape(-1))]


def _unsqueeze(call: Call, a: Array, axes: Array | None = None) -> Array:
    found = _axes(call, axes)
    return np.expand_dims(a, tuple(found))


def _squeeze(call: Call, a: Array, axes: Array | None = None) -> Array:
    found = _axes(call, axes)
    return np.squeeze(a, tuple(found) if found else None)


def _slice(call: Call, a: Array, *bounds: Array | None) -> Array:
    starts: Any = call.attr("starts")
    ends: Any = call.attr("ends")
    axes: Any = call.attr("axes")
    steps: Any = None
    if bounds:
        starts, ends, axes, steps = [*bounds, None, None][:4]
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    index: list[Any] = [slice(None)] * a.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        low = None if step < 0 and end < -a.shape[int(axis)] else int(end)
        index[int(axis)] = slice(int(start), low, int(step))
    return np.asarray(a[tuple(index)], dtype=object)


def _where(call: Call, condition: Array, a: Array, b: Array) -> Array:
    return np.where(condition.astype(bool), a, b)


def _same(call: Call, a: Array) -> Array:
    return a


_SYMBOLIC: dict[str, Callable[..., Array]] = {
    "Add": lambda call, a, b: np.asarray(a + b, dtype=object),
    "Sub": lambda call, a, b: np.asarray(a - b, dtype=object),
    "Mul": lambda call, a, b: np.asarray(a * b, dtype=object),
    "Div": _divide,
    "Mod": _modulo,
    "Neg": lambda call, a: np.asarray(-a, dtype=object),
    "Concat": lambda call, *arrays: np.concatenate(
        [np.asarray(a, dtype=object) for a in arrays], call.attr("axis")
    ),
    "Gather": lambda call, a, i: np.asarray(
        np.take(a, i.astype(np.int64), call.attr("axis", 0)), dtype=object
    ),
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Slice": _slice,
    "Reshape": lambda call, a, shape: a.reshape([int(s) for s in shape]),
    "Identity": _same,
    "Where": _where,
    "Equal": lambda call, a, b: np.asarray(a == b),
    "ReduceProd": lambda call, a, *_: np.asarray(np.prod(a), dtype=object).reshape(
        (1,) * a.ndim if call.attr("keepdims", 1) else ()
    ),
}
