"""Input shapes as text, and input values drawn from a seed.

`1x3x224x224` is a float32 tensor; `ids=1x128:int64` names the argument and its dtype; `1xTx512` has
its token axis where the T stands, whose size `--tokens` gives. A seeded input keeps the character of
the example it replaces: floats keep its mean and deviation, and integers and booleans are redrawn
from its own values, so that token ids stay inside a vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils import _pytree as pytree

from compiler.errors import UsageError

Shape = Callable[[torch.Tensor], tuple[int, ...]]  # of a tensor like this one

_TEXT = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>(?:\d+|T)(?:x(?:\d+|T))*)(?::(?P<dtype>\w+))?\Z")
_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int32": torch.int32,
    "int64": torch.int64,
    "bool": torch.bool,
}


@dataclass(frozen=True)
class InputSpec:
    """Shape and dtype of one input; `name` is the argument's name where it was given.

    `token_axes` are the axes written as T; `shape` holds 0 there until `at` puts a size in place.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    name: str | None = None
    token_axes: tuple[int, ...] = ()

    def at(self, tokens: int) -> InputSpec:
        """Return the input with `tokens` as the size of each of its token axes."""
        shape = (tokens if axis in self.token_axes else size for axis, size in enumerate(self.shape))
        return replace(self, shape=tuple(shape), token_axes=())

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """Return a tensor of this shape: normal floats, or integers 0 and 1.

        Raises UsageError for an input whose token axis has no size.
        """
        if self.token_axes:
            raise UsageError("an --input has a token axis, T, without a size: give --tokens 1,128")
        if self.dtype.is_floating_point:
            return torch.randn(self.shape, generator=generator).to(self.dtype)
        return torch.randint(0, 2, self.shape, generator=generator).to(self.dtype)


def parse_input(text: str) -> InputSpec:
    """Read `[name=]AxBxC[:dtype]`; raises UsageError saying what would be accepted."""
    match = _TEXT.match(text.strip())
    if match is None:
        raise UsageError(f"--input {text!r} is not a shape: write 1x3x224x224, name=1x128:int64 or 1xTx512")
    dtype = match["dtype"] or "float32"
    if dtype not in _DTYPES:
        raise UsageError(f"--input {text!r}: unknown dtype {dtype!r}, known: {', '.join(_DTYPES)}")
    sizes = match["shape"].split("x")
    axes = tuple(axis for axis, size in enumerate(sizes) if size == "T")
    shape = tuple(0 if size == "T" else int(size) for size in sizes)
    return InputSpec(shape, _DTYPES[dtype], match["name"], axes)


def draw_call(specs: Sequence[InputSpec], seed: int = 0) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return `(args, kwargs)` drawn for input specs; named ones become keyword arguments."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [(spec.name, spec.draw(generator)) for spec in specs]
    args = tuple(tensor for name, tensor in drawn if name is None)
    return args, {name: tensor for name, tensor in drawn if name is not None}


def redraw(call: tuple[Any, Mapping[str, Any]], seed: int, batch: int | None = None) -> tuple[Any, Any]:
    """Return a call like `call` with other values, and another batch size where one is given."""
    return _redrawn(call, seed, lambda leaf: _resized(leaf, {} if batch is None else {0: batch}))


def resize(call: tuple[Any, Mapping[str, Any]], axis: int, size: int, seed: int = 0) -> tuple[Any, Any]:
    """Return a call like `call` with other values, `size` long in `axis` of every tensor that has it."""
    return _redrawn(call, seed, lambda leaf: _resized(leaf, {axis: size}))


def reshape(
    call: tuple[Any, Mapping[str, Any]], shapes: Sequence[Sequence[int]], seed: int = 0
) -> tuple[Any, Any]:
    """Return a call like `call` with other values, its tensors of these shapes in order."""
    given = iter(shapes)
    return _redrawn(call, seed, lambda _: tuple(next(given)))


def _redrawn(call: tuple[Any, Mapping[str, Any]], seed: int, shape: Shape) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(seed)

    def drawn(leaf: Any) -> Any:
        return _like(leaf, generator, shape(leaf)) if isinstance(leaf, torch.Tensor) else leaf

    made: tuple[Any, Any] = pytree.tree_map(drawn, (call[0], dict(call[1])))
    return made


def _resized(leaf: torch.Tensor, sizes: Mapping[int, int]) -> tuple[int, ...]:
    return tuple(sizes.get(axis, size) for axis, size in enumerate(leaf.shape))


def describe(call: tuple[Any, Mapping[str, Any]]) -> str:
    """Return the shapes and dtypes of a call in the words of `--input`."""
    args = [_describe_leaf(leaf) for leaf in pytree.tree_leaves(call[0])]
    kwargs = [f"{name}={_describe_leaf(leaf)}" for name, leaf in call[1].items()]
    return ", ".join([*args, *kwargs]) or "no inputs"


def _describe_leaf(leaf: Any) -> str:
    if not isinstance(leaf, torch.Tensor):
        return repr(leaf)
    return f"{'x'.join(map(str, leaf.shape)) or 'scalar'}:{str(leaf.dtype).removeprefix('torch.')}"


def _like(leaf: torch.Tensor, generator: torch.Generator, shape: tuple[int, ...]) -> torch.Tensor:
    if not leaf.numel():
        return leaf
    if not leaf.is_floating_point():
        count = torch.Size(shape).numel()
        return leaf.reshape(-1)[torch.randint(leaf.numel(), (count,), generator=generator)].reshape(shape)
    mean, deviation = _moments(leaf)
    return (torch.randn(shape, generator=generator) * deviation + mean).to(leaf.dtype)


def _moments(leaf: torch.Tensor) -> tuple[float, float]:
    wide = leaf.double()
    mean, deviation = float(wide.mean()), float(wide.std(correction=0))
    usable = torch.isfinite(wide).all() and deviation > 0
    return (mean, deviation) if usable else (0.0, 1.0)
