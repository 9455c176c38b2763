"""Weights that make merging a real test: `--randomize SEED`.

A freshly built network has identity BatchNorms, unit scales and zero biases, so that a merge that
forgets one of them still looks right. This recipe leaves nothing at its neutral value and keeps
activations finite through deep networks (independent random statistics explode in some):

    gamma ~ U[0.5, 1.5], beta ~ N(0, 0.1)             every normalisation
    b ~ N(0, 0.05)                                    every bias that is all zero
    s ~ U[0.5, 1.5]                                   constant one-dimensional scales (layer scale)
    mean, var <- one forward in train mode, momentum 1, then mean += 0.2 sd u, var *= 1 + 0.2 u,
    u ~ U[-1, 1]                                      running statistics
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
        with _training(norms):
            _gather_statistics(model, seed)
        for norm in norms:
            _perturb(norm, generator)


def _gather_statistics(model: LoadedModel, seed: int) -> None:
    """Run one batch through the module, leaving the statistics it gathers in place."""
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
def _training(norms: list[_BatchNorm]) -> Iterator[None]:
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval()
            norm.momentum = momentum


def _perturb(norm: _BatchNorm, generator: torch.Generator) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    shape = norm.running_mean.shape
    shift, factor = (torch.rand(shape, generator=generator) * 2 - 1 for _ in range(2))
    norm.running_mean += 0.2 * norm.running_var.sqrt() * shift
    norm.running_var *= 1 + 0.2 * factor
