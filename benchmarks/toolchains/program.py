"""What a tool module returns: a compiled program, ready to run on one input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Program:
    """A loaded program whose input is set already.

    `step` is what is timed: one inference on that input, the output left where the runtime puts it.
    `output` returns the last inference's output. `threads` is what the runtime was told or tells.
    `owned` holds what the runtime uses without owning it: memory of inputs, say.
    """

    step: Callable[[], Any]
    output: Callable[[], Floats]
    threads: int
    owned: tuple[Any, ...] = ()
