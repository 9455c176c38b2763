"""What stands for an ONNX value while its graph is walked: a tensor, a host value, or both.

ONNX computes shapes, axes and paddings with tensors. Under torch.export a tensor has no data, so that
those are carried beside it on the host, as NumPy arrays. An array of dtype object holds sizes that
are only known at run time, as torch's symbolic integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from compiler.errors import UnsupportedModelError
from compiler.frontends.onnx.dtypes import Array, narrow_code, tensor_of

# Weights larger than this are for the graph's own passes to fold, not for the host.
_FOLDED_INTEGERS = 4096
_FOLDED_FLOATS = 64


class NeedsConstant(UnsupportedModelError):
    """An operation needs data that is only known at run time; `inputs` are what it is computed from."""

    def __init__(self, name: str, inputs: frozenset[str], why: str) -> None:
        """Keep the graph inputs that `name` depends on."""
        given = ", ".join(map(repr, sorted(inputs)))
        known = (
            f"is computed from the input {given}: freeze it to a constant" if inputs else "depends on data"
        )
        super().__init__(f"{why}, and {name!r} {known}")
        self.inputs = inputs


@dataclass
class Slot:
    """One ONNX value. At least one of `tensor` and `array` is there; `known` lets the host fold with it."""

    name: str
    tensor: torch.Tensor | None = None
    array: Array | None = None
    known: bool = False
    inputs: frozenset[str] = frozenset()  # the graph's inputs whose data it depends on
    dtype: torch.dtype | None = None  # of the tensor, where an array has another
    code: int | None = None  # the ONNX element type, where it is narrower than the tensor's

    @property
    def symbolic(self) -> bool:
        """Tell whether it holds sizes only known at run time."""
        return self.array is not None and self.array.dtype == object

    def as_tensor(self, floating: torch.dtype) -> torch.Tensor:
        """Return the tensor, `floating` the dtype that stands for float32."""
        if self.tensor is None:
            assert self.array is not None
            made = _tensor(self.array, floating)
            self.tensor = made if self.dtype is None else made.to(self.dtype)
        return self.tensor

    def as_array(self, why: str) -> Array:
        """Return the data on the host; raises NeedsConstant."""
        if self.array is None:
            raise NeedsConstant(self.name, self.inputs, why)
        return self.array


def host(name: str, array: Any) -> Slot:
    """Return a slot of a host value."""
    made = array if isinstance(array, np.ndarray) else _array(array)
    return Slot(name, array=made, known=folds(made))


def constant(name: str, tensor: torch.Tensor, array: Array) -> Slot:
    """Return a slot of a stored tensor: its data can be read, and small ones are folded on the host."""
    known = folds(array) and tensor.dtype != torch.bfloat16
    return Slot(name, tensor, array, known, code=narrow_code(array))


def folds(array: Array) -> bool:
    """Tell whether a value is small enough to compute with on the host, and of a type that NumPy has."""
    if array.dtype.kind not in "fiubO":
        return False
    if array.dtype == object:
        return True
    return bool(array.size <= (_FOLDED_FLOATS if array.dtype.kind == "f" else _FOLDED_INTEGERS))


def _array(values: Any) -> Array:
    flat = np.array(values, dtype=object)
    concrete = all(isinstance(v, int | float | bool | np.generic) for v in flat.reshape(-1))
    return np.array(values) if concrete else flat


def _tensor(array: Array, floating: torch.dtype) -> torch.Tensor:
    if array.dtype == object:
        parts = [torch.scalar_tensor(v, dtype=torch.int64) for v in array.reshape(-1)]
        return torch.stack(parts).reshape(array.shape) if array.ndim else parts[0]
    made = tensor_of(array)
    return made.to(floating) if made.dtype == torch.float32 else made
