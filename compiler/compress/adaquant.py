r"""AdaQuant: a quantised layer's codes, scales and bias are fitted to the output the float layer had.

For one layer, with X what reached it in the float model and X' what reaches it behind the layers that are
quantised and fitted already, minimise over a weight offset V, the bias and the weight scales

    :math:`\frac1n \| f(W, b; X) - f(Q_s(W + V), b'; X') \|^2`

with Adam, gradients passing straight through the rounding. V is counted in steps of the grid, so that a
rate means the same at every width. The best iterate is kept, and it starts from the codes at hand: the
error on the samples is never above theirs. Source: CalibTIP, Hubara et al., arXiv 2006.10518, section 3.1,
its sequential form, in which every layer is fitted on all samples.

The ranges of activations stay those of calibration: neighbours share them, and a runtime fuses by them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch

from compiler.compress.layerwise import Layer, Renewal, Samples, layerwise, linear_call
from compiler.compress.weights import Codes, along
from compiler.ir.graph import Graph


@dataclass(frozen=True)
class Fit:
    """How a layer is fitted: Adam steps, samples a step, and rates.

    `offset` is in steps of the grid, `scale` in natural logarithms, `bias` in deviations of the output.
    """

    steps: int = 100
    batch: int = 50
    offset: float = 2e-2
    scale: float = 1e-3
    bias: float = 1e-3
    checks: int = 10  # how often the error on all samples is taken


@dataclass(frozen=True)
class Iterate:
    """The codes [out, ...], scales [out] and bias [out] of a layer at some step."""

    codes: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor

    def real(self) -> torch.Tensor:
        """Return the weights they stand for."""
        return self.codes * along(self.scale, self.codes)


def adaquant(
    graph: Graph,
    original: Graph,
    samples: Samples,
    names: Collection[str] | None = None,
    fit: Fit | None = None,
    seed: int = 0,
) -> Graph:
    """Return the quantised graph with codes, scales and biases fitted layer by layer, in order.

    Args:
        graph: a graph of quantised layers, weights one scale an output channel; float layers stay.
        original: the float graph it was made from.
        samples: calls, each its flat inputs; all take part in every layer.
        names: the layers to fit, all quantised ones by default.
        fit: steps and rates.
        seed: of the order in which samples are drawn.

    Raises UsageError without samples.
    """
    settings, generator = fit or Fit(), torch.Generator().manual_seed(seed)
    return layerwise(graph, original, samples, lambda layer: fitted(layer, settings, generator), names)


def fitted(layer: Layer, fit: Fit, generator: torch.Generator) -> Renewal | None:
    """Return the tensors of the best iterate, None where none is better than what the layer has."""
    if layer.codes is None or layer.twin.shape != layer.weight.shape:
        return None
    best = _error(layer, layer.weight, layer.bias)
    found: Iterate | None = None
    iterates = _iterates(layer, layer.codes, fit, generator) if best > 0 else iter(())
    for iterate in iterates:
        error = _error(layer, iterate.real(), iterate.bias)
        if error < best:
            best, found = error, iterate
    return None if found is None else Renewal(bias=found.bias, codes=found.codes, scale=found.scale)


def _error(layer: Layer, weight: torch.Tensor, bias: torch.Tensor) -> float:
    """Return the sum of squares of a layer's error over all samples."""
    outputs = layer.outputs(weight, bias)
    pairs = zip(outputs, layer.wanted, strict=True)
    return float(sum((y - w).double().square().sum() for y, w in pairs))


def _iterates(layer: Layer, codes: Codes, fit: Fit, generator: torch.Generator) -> Iterator[Iterate]:
    """Yield the layer as it is after each few steps of Adam."""
    spread = max(float(torch.cat([w.flatten() for w in layer.wanted]).std()), 1e-12)
    start = layer.twin / along(codes.scale, layer.twin)
    offset, size, bias = (t.requires_grad_() for t in _start(layer, codes))
    groups = [(offset, fit.offset), (size, fit.scale), (bias, fit.bias * spread)]
    adam = torch.optim.Adam([{"params": [p], "lr": rate} for p, rate in groups])
    every = max(fit.steps // fit.checks, 1)
    batches = _batches(layer, fit.batch, generator)
    for step in range(1, fit.steps + 1):
        x, wanted = next(batches)
        whole = _rounded((start + offset) * along((-size).exp(), start), codes)
        scale = codes.scale * size.exp()
        adam.zero_grad()
        found = linear_call(layer.node, x, whole * along(scale, start), bias)
        ((found - wanted) / spread).square().mean().backward()  # type: ignore[no-untyped-call]
        adam.step()
        if step % every == 0:
            yield _iterate(codes, start, offset, size, bias)


def _start(layer: Layer, codes: Codes) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.zeros_like(layer.twin), torch.zeros_like(codes.scale), layer.bias.clone()


def _rounded(steps: torch.Tensor, codes: Codes) -> torch.Tensor:
    """Return the codes of weights in steps of the grid; gradients pass where none is clipped."""
    clipped = steps.clamp(codes.low, codes.high)
    return clipped + (clipped.round() - clipped).detach()


@torch.no_grad()
def _iterate(
    codes: Codes, start: torch.Tensor, offset: torch.Tensor, size: torch.Tensor, bias: torch.Tensor
) -> Iterate:
    whole = _rounded((start + offset) * along((-size).exp(), start), codes)
    return Iterate(whole.to(codes.codes.dtype), codes.scale * size.exp(), bias.detach().clone())


def _batches(
    layer: Layer, size: int, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield drawn parts of all calls without end; calls of unlike shapes one at a time."""
    if len({x.shape[1:] for x in layer.inputs}) > 1:
        while True:
            for index in torch.randperm(len(layer.inputs), generator=generator).tolist():
                yield layer.inputs[index], layer.wanted[index]
    inputs, wanted = torch.cat(layer.inputs), torch.cat(layer.wanted)
    while True:
        for rows in torch.randperm(len(inputs), generator=generator).split(size):  # type: ignore[no-untyped-call]
            yield inputs[rows], wanted[rows]
