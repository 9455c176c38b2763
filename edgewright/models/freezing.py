"""Inputs that never change in deployment: `--freeze task=3 --freeze prompt=tokens.npy`.

A frozen input takes its value before the model is imported, so that the value settles sizes as any
example does, and `compiler.passes.specialise` then makes it a constant of the graph. From there on the
model is called with what remains; the original model, to which the result is compared, gets the frozen
values put back.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from compiler.errors import UsageError
from compiler.ir.graph import Graph
from compiler.passes.specialise import specialise, without
from edgewright.models.inputs import describe
from edgewright.models.loaded import FrozenInputs, LoadedModel

ACCEPTED = "a number, a comma list, or a .npy, .pt or .safetensors file"


def parse_freeze(texts: Sequence[str]) -> dict[str, str]:
    """Read `name=value` options; raises UsageError for one without a name, or a name given twice."""
    values: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise UsageError(f"--freeze {text!r} is not name=value; the value is {ACCEPTED}")
        if name.strip() in values:
            raise UsageError(f"--freeze gives {name.strip()!r} twice")
        values[name.strip()] = value.strip()
    return values


def freeze(model: LoadedModel, values: Mapping[str, Any]) -> LoadedModel:
    """Return the model with inputs fixed, by the names of its parameters; the call loses them.

    A value is a tensor, a number, a nested list of numbers, or text as `--freeze` takes it. An item of
    a nested argument is called `argument_item`.

    Raises UsageError, listing the inputs, for a name or a value that does not fit, and where no input
    would be left.
    """
    if not values:
        return model
    leaves, spec = pytree.tree_flatten((model.args, dict(model.kwargs)))
    names = leaf_names(model)
    for name, value in values.items():
        if name not in names:
            raise UsageError(f"{model.spec} has no input {name!r} to freeze; {_inputs(names, leaves)}")
        index = names.index(name)
        leaves[index] = _fit(name, value, leaves[index])
    positions = tuple(
        i for i, name in enumerate(names) if name in values and isinstance(leaves[i], torch.Tensor)
    )
    if not any(isinstance(leaf, torch.Tensor) for i, leaf in enumerate(leaves) if i not in positions):
        raise UsageError(f"every input of {model.spec} is frozen; {_inputs(names, leaves)}")
    args, kwargs = _remaining(leaves, spec, positions)
    frozen = FrozenInputs(spec, tuple(leaves), positions, tuple(names[i] for i in positions))
    return dataclasses.replace(model, args=args, kwargs=kwargs, frozen=frozen)


def specialised(graph: Graph, model: LoadedModel) -> Graph:
    """Return the imported graph with the frozen inputs as constants."""
    if model.frozen is None:
        return graph
    tensors = [i for i, leaf in enumerate(model.frozen.leaves) if isinstance(leaf, torch.Tensor)]
    inputs = dict(zip(tensors, graph.inputs(), strict=True))
    return specialise(graph, {inputs[i].name: model.frozen.leaves[i] for i in model.frozen.positions})


def leaf_names(model: LoadedModel) -> list[str]:
    """Return a name for each flat argument of the example call: its parameter's, and the path inside."""
    parameters = list(inspect.signature(model.module.forward).parameters.values())
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = [p.name for p in parameters if p.kind in plain]
    rest = next((p.name for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL), "args")
    paths, _ = pytree.tree_flatten_with_path((model.args, dict(model.kwargs)))
    return [_name(path, named, rest) for path, _ in paths]


def _name(path: Sequence[Any], named: Sequence[str], rest: str) -> str:
    part, first, *inner = (_key(key) for key in path)
    if part == 0:
        first = named[first] if first < len(named) else f"{rest}_{first - len(named)}"
    return "_".join(map(str, [first, *inner]))


def _key(key: Any) -> Any:
    """Return the index, the key or the attribute of one step into a call."""
    return next(getattr(key, name) for name in ("idx", "key", "name") if hasattr(key, name))


def _inputs(names: Sequence[str], leaves: Sequence[Any]) -> str:
    listed = (f"{name}={describe(((leaf,), {}))}" for name, leaf in zip(names, leaves, strict=True))
    return f"its inputs are {', '.join(listed)}"


@dataclass(frozen=True)
class _Slot:
    """A leaf and its place in the call."""

    index: int
    leaf: Any


def _remaining(
    leaves: Sequence[Any], spec: pytree.TreeSpec, positions: Sequence[int]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    slots = [_Slot(i, leaf) for i, leaf in enumerate(leaves)]
    kept = [
        without(part, lambda slot: slot.index in positions) for part in pytree.tree_unflatten(slots, spec)
    ]
    args, kwargs = pytree.tree_map(lambda slot: slot.leaf, tuple(kept))
    return args, kwargs


def _fit(name: str, value: Any, example: Any) -> Any:
    """Return a value in the type of the example it replaces; raises UsageError where it has none."""
    if isinstance(example, str):
        return str(value)
    if isinstance(value, str):
        value = _read(name, value)
    if isinstance(example, torch.Tensor):
        return _fit_tensor(name, value, example)
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    whole = isinstance(value, int) and not isinstance(value, bool)
    if type(value) is type(example):
        return value
    if isinstance(example, float) and whole:
        return float(value)
    raise UsageError(f"{name!r} is {example!r} in the example, a {type(example).__name__}; got {value!r}")


def _read(name: str, text: str) -> Any:
    if text.endswith((".npy", ".pt", ".safetensors")):
        return _load(name, Path(text))
    try:
        words = {"true": "True", "false": "False"}
        return ast.literal_eval(words.get(text.lower(), text))
    except (ValueError, SyntaxError) as error:
        raise UsageError(f"--freeze {name}={text}: the value is {ACCEPTED}") from error


def _load(name: str, path: Path) -> torch.Tensor:
    try:
        found: Any = _open(path)
    except Exception as error:  # the three readers raise what zip, pickle, NumPy and Rust raise
        raise UsageError(
            f"--freeze {name}: {path} cannot be read: {type(error).__name__}: {error}"
        ) from error
    if isinstance(found, Mapping):
        found = next(iter(found.values())) if len(found) == 1 else found.get(name)
    if not isinstance(found, torch.Tensor):
        raise UsageError(f"--freeze {name}: {path} holds no tensor {name!r}, and not just one tensor")
    return found


def _open(path: Path) -> Any:
    if path.suffix == ".npy":
        import numpy as np

        return torch.from_numpy(np.load(path, allow_pickle=False))
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, weights_only=True, map_location="cpu")


def _fit_tensor(name: str, value: Any, example: torch.Tensor) -> torch.Tensor:
    wanted = describe(((example,), {}))
    try:
        given = value if isinstance(value, torch.Tensor) else _numbers(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{name!r} takes a {wanted}: {value!r} is not {ACCEPTED}") from error
    if given.dim() != example.dim() and given.numel() == example.numel():
        given = given.reshape(example.shape)  # a number for a 1x1 tensor, a flat list for its only row
    if given.dim() != example.dim():
        raise UsageError(f"{name!r} takes a {wanted}, not a {describe(((given,), {}))}")
    cast = given.to(example.dtype)
    exact = (
        given.is_floating_point() <= example.is_floating_point() and given.is_complex() == cast.is_complex()
    )
    if not exact or (not example.is_floating_point() and not torch.equal(cast.to(given.dtype), given)):
        raise UsageError(
            f"{name!r} takes a {wanted}; the {describe(((given,), {}))} given does not fit its dtype"
        )
    return cast.detach().contiguous()


def _numbers(value: Any) -> torch.Tensor:
    tensor = torch.tensor(value)
    return torch.tensor(value, dtype=torch.float64) if tensor.is_floating_point() else tensor
