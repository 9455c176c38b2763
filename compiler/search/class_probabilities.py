"""The class probabilities a model gives for the samples of one call."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compiler.compress.divergence import log_distributions
from compiler.errors import UsageError
from compiler.search.calibration_selection import Call
from compiler.search.output_cost import class_dimension


def class_probabilities(call: Call) -> NDArray[np.float64]:
    """Return probabilities [n, places, classes] of the one floating output; places are tokens or pixels.

    Raises UsageError where there are several outputs or no classes in it.
    """
    shapes = [list(t.shape) for t in call.answer.outputs]
    rank = len(shapes[0]) if len(shapes) == 1 else 0
    if rank < 2 or shapes[0][class_dimension(rank)] < 2:
        raise UsageError(
            f"this selection of calibration samples reads class probabilities, which needs one output of "
            f"shape [N, C] or [N, T, C]; the model gives {shapes}. Select by clusters or at random"
        )
    output, dim = call.answer.outputs[0], class_dimension(rank)
    logs, _ = log_distributions(output, output, dim)
    rows = logs.exp().movedim(dim, -1).reshape(len(output), -1, output.shape[dim])
    found: NDArray[np.float64] = rows.numpy()
    return found
