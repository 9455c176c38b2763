"""The suite's SDKs without the work they repeat for each of its cases; what they compute stays the same.

To what `tests.quicker` spares of torch:

- XNNPACK's quantizer traces its convolution-BatchNorm patterns anew for each graph, also where that
  holds no BatchNorm.
- They keep thousands of objects of each case, which each garbage collection goes through again.
"""

from __future__ import annotations

import gc
import itertools
from typing import Any

import executorch.backends.xnnpack.quantizer.xnnpack_quantizer_utils as quantizer

from tests import quicker

_annotate = quantizer._do_annotate_conv_bn
_ended = itertools.count(1)
SPARED = 15  # cases between two collections of everything


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
    quicker.install()
    quantizer._do_annotate_conv_bn = annotate
