"""ONNX element types and torch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from compiler.errors import UnsupportedModelError

Array = np.ndarray[Any, Any]

# By onnx.TensorProto.DataType.
_TORCH = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    4: torch.uint16,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    12: torch.uint32,
    13: torch.uint64,
    14: torch.complex64,
    15: torch.complex128,
    16: torch.bfloat16,
    17: torch.float8_e4m3fn,
    18: torch.float8_e4m3fnuz,
    19: torch.float8_e5m2,
    20: torch.float8_e5m2fnuz,
    24: torch.float8_e8m0fnu,
}
# Narrower than a byte: one element a byte.
_HELD = {21: torch.uint8, 22: torch.int8, 25: torch.uint8, 26: torch.int8}
_NARROW = {"uint4": 21, "int4": 22, "uint2": 25, "int2": 26}
_STRING = 8


def torch_dtype(code: int) -> torch.dtype:
    """Return torch's dtype of an ONNX element type; raises UnsupportedModelError where there is none."""
    if code == _STRING:
        raise UnsupportedModelError("strings are no tensors of numbers, and no runtime here takes them")
    if code in _HELD:
        return _HELD[code]
    if code not in _TORCH:
        import onnx

        name = onnx.TensorProto.DataType.Name(code)
        raise UnsupportedModelError(f"the element type {name} has no operators in torch")
    return _TORCH[code]


def onnx_code(dtype: torch.dtype) -> int:
    """Return the ONNX element type of torch's dtype."""
    return next(code for code, known in _TORCH.items() if known == dtype)


def tensor_of(array: Array) -> torch.Tensor:
    """Return a stored array as a tensor; raises UnsupportedModelError for strings."""
    array = np.ascontiguousarray(array).reshape(array.shape)
    if array.dtype.isbuiltin == 1 and array.dtype.kind in "fiubc":
        return torch.from_numpy(array.copy())
    if array.dtype.kind in "OSU":
        return torch.empty(0, dtype=torch_dtype(_STRING))
    name = array.dtype.name  # of ml_dtypes, which torch does not read
    if name in _NARROW:
        return torch.from_numpy(array.astype(np.uint8 if name[0] == "u" else np.int8))
    kinds = {f"float8_{t}": f"float8_{t}" for t in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz", "e8m0fnu")}
    found = getattr(torch, {**kinds, "bfloat16": "bfloat16"}.get(name, ""), None)
    if found is None:
        raise UnsupportedModelError(f"the element type {name} has no operators in torch")
    width = np.uint16 if found == torch.bfloat16 else np.uint8
    return torch.from_numpy(array.view(width).copy()).view(found)


def narrow_code(array: Array) -> int | None:
    """Return the ONNX element type of an array whose elements are narrower than a byte, else None."""
    return _NARROW.get(array.dtype.name)


def narrow_range(code: int | None) -> tuple[int, int] | None:
    """Return the least and largest value of a type narrower than a byte, None for other types."""
    return {21: (0, 15), 22: (-8, 7), 25: (0, 3), 26: (-2, 1)}.get(code or 0)


def wrapped(tensor: torch.Tensor, code: int | None) -> torch.Tensor:
    """Return integers modulo the width of an ONNX element type that is narrower than a byte."""
    bounds = narrow_range(code)
    if bounds is None:
        return tensor
    low, high = bounds
    return ((tensor.to(torch.int64) - low) % (high - low + 1) + low).to(tensor.dtype)


def array_of(tensor: torch.Tensor) -> Array:
    """Return a tensor as an array, float32 where NumPy lacks its type."""
    narrow = tensor.is_floating_point() and (tensor.itemsize == 1 or tensor.dtype == torch.bfloat16)
    found: Array = (tensor.float() if narrow else tensor).numpy()
    return found
