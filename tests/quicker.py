"""Torch without the work it repeats at each export and each decomposition; what it computes stays the same.

- `torch.export` gives each composite operator a Python kernel, and takes it away again, in each
  decomposition: thousands of registrations, whose inner function evaluates its annotations each time.
- It also looks up every composite operator by its name, once for each namespace, in each decomposition.
- `torch.onnx` reads the source of each of its translations anew for each export.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
import torch._export.utils as composites
from torch._C import DispatchKey
from torch._ops import OperatorBase

_register = OperatorBase.py_impl
_look_up = composites._materialize_cpp_cia_ops
_known: set[str] = set()


def register(self: OperatorBase, key: Any) -> Callable[[Any], Any]:
    """Do what `OperatorBase.py_impl` does."""

    def inner(kernel: Any) -> Any:
        if not isinstance(key, DispatchKey) or key == DispatchKey.Python or key in self.py_kernels:
            return _register(self, key)(kernel)
        self.py_kernels[key] = kernel
        self._dispatch_cache.clear()
        return kernel

    return inner


def look_up() -> None:
    """Do what `_materialize_cpp_cia_ops` does, where there are new operators."""
    found = set(torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd"))
    if found - _known:
        _look_up()
        _known.update(found)


def install() -> None:
    """Put them in place, for this process."""
    composites._materialize_cpp_cia_ops = look_up
    OperatorBase.py_impl = register  # type: ignore[method-assign]
    _keep_translations()


def _keep_translations() -> None:
    """Read the exporter's translations anew only where operators were registered since.

    An export without translations of its own changes none.
    """
    if find_spec("onnxscript") is None:
        return
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    read = ONNXRegistry.from_torchlib
    kept = cache(lambda operators, *args, **options: read(*args, **options))

    def from_torchlib(*args: Any, **options: Any) -> ONNXRegistry:
        return kept(len(torch._C._dispatch_get_all_op_names()), *args, **options)

    ONNXRegistry.from_torchlib = staticmethod(from_torchlib)  # type: ignore[method-assign,assignment]
