"""`model.onnx` as a model in hand, with example inputs drawn for the shapes it declares."""

from __future__ import annotations

import math

import torch

from compiler.errors import UsageError
from compiler.frontends.onnx.module import onnx_module
from compiler.frontends.onnx.reading import OnnxInput, inputs_of, read
from edgewright.models.loaded import LoadedModel

MOST_ELEMENTS = 2**28  # of an example input: a gigabyte in float32


def load_onnx(spec: str) -> LoadedModel:
    """Read an ONNX file; an open first axis becomes 1, other open axes leave the model without an example.

    Raises UsageError for what cannot be read.
    """
    model = read(spec)
    inputs = inputs_of(model)
    if not inputs:
        raise UsageError(f"{spec} has no inputs: there is nothing to compile")
    generator = torch.Generator().manual_seed(0)
    shapes = [_sizes(i) for i in inputs]
    known = all(isinstance(d, int) for shape in shapes for d in shape)
    args = (
        tuple(_drawn(i, shape, generator) for i, shape in zip(inputs, shapes, strict=True)) if known else ()
    )
    expected = f"its inputs are {', '.join(map(str, inputs))}"
    return LoadedModel(onnx_module(model).eval(), args, {}, spec, expected)


def _sizes(given: OnnxInput) -> tuple[int | str, ...]:
    return tuple(1 if axis == 0 and not isinstance(d, int) else d for axis, d in enumerate(given.shape))


def _drawn(given: OnnxInput, shape: tuple[int | str, ...], generator: torch.Generator) -> torch.Tensor:
    sizes = [d for d in shape if isinstance(d, int)]
    if math.prod(sizes) > MOST_ELEMENTS:
        raise UsageError(
            f"the file declares the input {given}: an example has {MOST_ELEMENTS} elements at most; mend the "
            f"sizes that the file declares"
        )
    if given.dtype.is_floating_point:
        return torch.randn(sizes, generator=generator).to(given.dtype)
    return torch.randint(0, 2, sizes, generator=generator).to(given.dtype)
