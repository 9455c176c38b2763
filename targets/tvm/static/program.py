"""What a fused Relax module does, as calls of kernels on tensors: all that C has to know of it.

A tensor is a shape and an element type over a storage; a reshape is a second tensor over the same
storage. What has no such form (sizes that are known only at run time, control flow, calls of a
runtime's functions) is a `Refusal` with the reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy
from numpy.typing import NDArray


class Refusal(Exception):
    """Why a module has no static form."""


class Kind(StrEnum):
    """Where a storage lies."""

    INPUT = "INPUTS"
    OUTPUT = "OUTPUTS"
    SCRATCH = "ARENA"
    WEIGHT = "WEIGHTS"


@dataclass(frozen=True)
class Storage:
    """Bytes that one or more tensors look at; `content` is a weight's."""

    kind: Kind
    size: int
    content: bytes = b""


@dataclass(frozen=True)
class Tensor:
    """A row-major view of a storage."""

    storage: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def strides(self) -> tuple[int, ...]:
        """The distance between neighbours along each dimension, in elements."""
        return tuple(math.prod(self.shape[i + 1 :]) for i in range(len(self.shape)))


@dataclass(frozen=True)
class Call:
    """One run of a kernel on tensors, its results last."""

    kernel: str
    arguments: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """Storages, tensors over them, and the calls in order; `inputs` and `outputs` are tensors."""

    storages: tuple[Storage, ...]
    tensors: tuple[Tensor, ...]
    calls: tuple[Call, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def kernels(self) -> tuple[str, ...]:
        """The names of the kernels, in order of their first call."""
        return tuple(dict.fromkeys(call.kernel for call in self.calls))


def element_bytes(dtype: str) -> int:
    """Return the bytes of one element; Refusal for a type that is not whole bytes."""
    if dtype == "bool":
        return 1
    bits = "".join(c for c in dtype if c.isdigit())
    if not dtype.isalnum() or not bits or int(bits) % 8:
        raise Refusal(f"it holds tensors of {dtype}")
    return int(bits) // 8


def content(array: NDArray[numpy.generic]) -> bytes:
    """Return the elements of a weight in row-major order."""
    return numpy.ascontiguousarray(array).tobytes()
