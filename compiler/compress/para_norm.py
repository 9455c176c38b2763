r"""Para-normalisation: a changed layer's channels get back the mean and deviation they had.

What BatchNorm would do if it stood behind the layer. Put there with running mean :math:`\mu`, running
variance :math:`\sigma^2`, weight :math:`\sqrt{\sigma^2 + \epsilon}` and bias :math:`\mu` it is the
identity; with the statistics :math:`\mu', \sigma'` that the changed layer's output has on calibration
samples it is :math:`y \mapsto (y - \mu') \sigma / \sigma' + \mu`, which folds back as

    :math:`W \leftarrow \frac{\sigma}{\sigma'} W, \qquad b \leftarrow \frac{\sigma}{\sigma'} (b - \mu') + \mu`

In a quantised layer the factor goes into the scale of its weights; the codes stay. The stored moments
are a BatchNorm's :math:`\beta` and :math:`\gamma` where the original still had one, otherwise those of
the original's own output on the same samples. Source: CalibTIP, Hubara et al., arXiv 2006.10518, section 3.4.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

from compiler.compress.layerwise import Layer, Renewal, Samples, layerwise
from compiler.compress.weights import along, channel_axis, channel_rows
from compiler.ir.graph import Graph

Moments = tuple[torch.Tensor, torch.Tensor]  # mean and deviation of each channel

SILENT = 1e-6  # of the deviation it should have: a channel that is as good as constant is not blown up


def renormalise(
    graph: Graph,
    original: Graph,
    samples: Samples,
    names: Collection[str] | None = None,
    stored: Mapping[str, Moments] | None = None,
) -> Graph:
    """Return the graph with the output moments of its layers set to the original's.

    Args:
        graph: the changed graph.
        original: the graph whose layers have the same names.
        samples: calls, each its flat inputs; all are held at once.
        names: the layers to do so for, all that have a twin by default.
        stored: moments by layer, in place of those the original has on the samples.

    Raises UsageError without samples.
    """
    known = stored or {}

    def rule(layer: Layer) -> Renewal | None:
        return renormalised(layer, known.get(layer.node.name) or moments(layer, layer.wanted))

    return layerwise(graph, original, samples, rule, names)


def moments(layer: Layer, outputs: Sequence[torch.Tensor]) -> Moments:
    """Return mean and deviation of each output channel over all samples and positions, in float64."""
    rows = torch.cat([channel_rows(t, channel_axis(layer.node)) for t in outputs]).double()
    return rows.mean(0), rows.std(0, correction=0)


def renormalised(layer: Layer, wanted: Moments) -> Renewal | None:
    """Return the tensors that give a layer's output these moments, None where it has them."""
    (mean, deviation), (own, spread) = wanted, moments(layer, layer.outputs())
    if torch.equal(mean, own) and torch.equal(deviation, spread):
        return None
    factor = torch.where(spread > SILENT * deviation, deviation / spread, 1.0)
    bias = ((layer.bias.double() - own) * factor + mean).to(layer.bias.dtype)
    if layer.codes is not None:
        scale = layer.codes.scale
        return Renewal(bias=bias, scale=(scale.double() * factor).to(scale.dtype))
    weight = layer.weight.double() * along(factor, layer.weight)
    return Renewal(bias=bias, weight=weight.to(layer.weight.dtype))
