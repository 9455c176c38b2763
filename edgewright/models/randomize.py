"""Weights that make merging a real test: `--randomize SEED`.

A freshly built network has identity BatchNorms, unit scales and zero biases, so that a merge that
forgets one of them still looks right. This recipe leaves nothing at its neutral value and keeps
activations finite through deep networks (independent random statistics explode in some):

    gamma ~ U[0.5, 1.5], beta ~ N(0, 0.1)             every normalisation
    b ~ N(0, 0.05)                                    every bias that is all zero
    s ~ U[0.5, 1.5]                                   constant one-dimensional scales (layer scale)
    mean, var <- those of its input in one forward pass of four samples, var at least a tenth of its
    median, then mean += 0.2 sd u, var *= 1 + 0.2 u, u ~ U[-1, 1]                  running statistics

Each normalisation draws before its own output is computed, so that what follows sees it: drawn
afterwards the deviations multiply from layer to layer. A channel that is silent in those samples has no
variance of its own (it does not count for the median); without a floor another input would be multiplied
by up to 1/sqrt(eps).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from compiler.errors import UsageError
from edgewright.models.inputs import redraw
from edgewright.models.loaded import LoadedModel

BATCH = 4
FLOOR = 0.1


def randomize(model: LoadedModel, seed: int) -> None:
    """Randomise normalisations, biases, scales and running statistics of a module in place.

    Raises UsageError for an exported program, whose weights are already fixed.
    """
    if not isinstance(model.source, nn.Module):
        raise UsageError(f"--randomize needs a module; {model.spec} is an exported program")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.source.modules():
            _draw_parameters(module, generator)
    norms = [m for m in model.source.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if norms:
        with _drawing(norms, generator):
            _run(model, seed)


def _run(model: LoadedModel, seed: int) -> None:
    """Run one batch through the module."""
    args, kwargs = model.whole(*redraw((model.args, model.kwargs), seed, BATCH))
    with torch.no_grad():
        model.module(*args, **kwargs)


def _draw_parameters(module: nn.Module, generator: torch.Generator) -> None:
    norm = "norm" in type(module).__name__.lower()
    for name, parameter in module.named_parameters(recurse=False):
        if name == "bias" and (norm or not parameter.any()):
            deviation = 0.1 if norm else 0.05
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)
        elif (norm and name == "weight") or _is_scale(parameter):
            parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)


def _is_scale(parameter: nn.Parameter) -> bool:
    """Tell a scale that still stands at its first value: all equal, one dimension that is not 1."""
    wide = sum(d != 1 for d in parameter.shape)
    return wide == 1 and parameter.is_floating_point() and bool((parameter == parameter.reshape(-1)[0]).all())


@contextlib.contextmanager
def _drawing(norms: list[_BatchNorm], generator: torch.Generator) -> Iterator[None]:
    """Let each normalisation draw its statistics at its first call, before it uses them."""
    drawn: set[_BatchNorm] = set()

    def draw(norm: _BatchNorm, inputs: tuple[torch.Tensor, ...]) -> None:
        if norm not in drawn:
            drawn.add(norm)
            _draw_statistics(norm, inputs[0], generator)

    handles = [norm.register_forward_pre_hook(draw) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _draw_statistics(norm: _BatchNorm, x: torch.Tensor, generator: torch.Generator) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    variance, mean = torch.var_mean(x.transpose(0, 1).flatten(1), 1)
    heard = variance[variance > norm.eps]
    variance = variance.clamp(min=FLOOR * float(heard.median()) if len(heard) else 1.0)
    shift, factor = (torch.rand(mean.shape, generator=generator) * 2 - 1 for _ in range(2))
    norm.running_mean.copy_(mean + 0.2 * variance.sqrt() * shift)
    norm.running_var.copy_(variance * (1 + 0.2 * factor))
