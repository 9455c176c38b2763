r"""Analytic bias correction: a changed layer's mean error over calibration samples goes into its bias.

    :math:`b \leftarrow b + E[f(W; x)] - E[f(\hat W; \hat x)]` for each output channel

with x what reached the layer in the original and :math:`\hat x` what reaches it behind the layers that
are corrected already: after it, each channel's mean is the original's. It needs no labels and no
gradients. Source: Nagel et al., arXiv 1906.04721, section 4.2 (its empirical form).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from compiler.compress.layerwise import Layer, Renewal, Samples, layerwise
from compiler.compress.weights import channel_axis, channel_rows
from compiler.ir.graph import Graph

SETTLED = 1e-6  # of a channel's deviation: a smaller error is rounding


def correct_biases(graph: Graph, original: Graph, samples: Samples) -> Graph:
    """Return the graph with the mean output of each layer that has a twin moved to the original's.

    A layer without a bias gets one where it is off. Raises UsageError without samples.
    """
    return layerwise(graph, original, samples, _corrected)


def _corrected(layer: Layer) -> Renewal | None:
    wanted = _mean(layer, layer.wanted)
    error = wanted - _mean(layer, layer.outputs())
    scale = max(float(t.abs().amax()) for t in layer.wanted)
    if float(error.abs().max()) <= SETTLED * scale:
        return None
    return Renewal(bias=(layer.bias.double() + error).to(layer.bias.dtype))


def _mean(layer: Layer, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
    axis = channel_axis(layer.node)
    return torch.cat([channel_rows(t, axis) for t in outputs]).double().mean(0)
