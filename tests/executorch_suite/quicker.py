"""The suite's SDKs without the work they repeat for each of its cases; what they compute stays the same.

- `torch.export` gives each composite operator a Python kernel, and takes it away again, in each
  decomposition: thousands of registrations, whose inner function evaluates its annotations each time.
- It also looks up every composite operator by its name, once for each namespace, in each decomposition.
- XNNPACK's quantizer traces its convolution-BatchNorm patterns anew for each graph, also where that
  holds no BatchNorm.
- They keep thousands of objects of each case, which each garbage collection goes through again.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from typing import Any

import executorch.backends.xnnpack.quantizer.xnnpack_quantizer_utils as quantizer
import torch
import torch._export.utils as composites
from torch._C import DispatchKey
from torch._ops import OperatorBase

_register = OperatorBase.py_impl
_annotate = quantizer._do_annotate_conv_bn
_look_up = composites._materialize_cpp_cia_ops
_known: set[str] = set()
_ended = itertools.count(1)
SPARED = 15  # cases between two collections of everything


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


def annotate(module: Any, *arguments: Any, **options: Any) -> list[Any]:
    """Do what the annotation of convolution and BatchNorm does."""
    if any("batch_norm" in str(node.target) for node in module.graph.nodes):
        return list(_annotate(module, *arguments, **options))
    module.graph.eliminate_dead_code()
    module.recompile()
    return []


def spare() -> None:
    """Leave out of later garbage collections what is kept of the cases that have ended."""
    if next(_ended) % SPARED == 0:
        gc.collect()
        gc.freeze()


def install() -> None:
    """Put them in place, for this process."""
    composites._materialize_cpp_cia_ops = look_up
    OperatorBase.py_impl = register  # type: ignore[method-assign]
    quantizer._do_annotate_conv_bn = annotate
