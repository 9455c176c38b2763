"""A model in hand: something to call, and inputs to call it with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class FrozenInputs:
    """Arguments of a call that never change: the call's `leaves`, fixed at `positions`, and their `names`."""

    spec: pytree.TreeSpec
    leaves: tuple[Any, ...]
    positions: tuple[int, ...]
    names: tuple[str, ...]

    def by_name(self) -> dict[str, torch.Tensor]:
        """Return the fixed values by the names they were given under."""
        return {name: self.leaves[i] for name, i in zip(self.names, self.positions, strict=True)}

    def whole(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the whole call for one of what remains."""
        given = iter(pytree.tree_leaves((args, dict(kwargs))))
        leaves = [leaf if i in self.positions else next(given) for i, leaf in enumerate(self.leaves)]
        whole: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_unflatten(leaves, self.spec)
        return whole


@dataclass(frozen=True)
class LoadedModel:
    """A module in eval mode, or an exported program, with example inputs.

    `args` and `kwargs` are the example call; `spec` is the text that named the model, or its
    class; `expected` says what inputs it was written for, where that is known; `batch` is the
    largest batch of a dynamic first dimension, None where the batch is fixed. `frozen` holds the
    inputs that are constants of the deployment: they are no part of the call.
    """

    source: torch.nn.Module | torch.export.ExportedProgram
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    spec: str = ""
    expected: str = ""
    batch: int | None = None
    frozen: FrozenInputs | None = None

    @property
    def module(self) -> torch.nn.Module:
        """The module to call: the model itself, or what the exported program unlifts to."""
        if isinstance(self.source, torch.export.ExportedProgram):
            return self.source.module()
        return self.source

    def dynamic_shapes(self) -> Any:
        """Return torch.export's `dynamic_shapes` for a dynamic batch, None for fixed shapes."""
        if self.batch is None:
            return None
        batch = torch.export.Dim("batch", min=1, max=self.batch)
        fixed = {id(self.frozen.leaves[i]) for i in self.frozen.positions} if self.frozen else set()

        def mark(leaf: Any) -> Any:
            moves = isinstance(leaf, torch.Tensor) and leaf.dim() and id(leaf) not in fixed
            return {0: batch} if moves else None

        args, kwargs = self.whole(self.args, self.kwargs)
        return (*pytree.tree_map(mark, args), *pytree.tree_map(mark, kwargs).values())

    def whole(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the original model's own call: `args` and `kwargs` with the frozen inputs put back."""
        return (args, dict(kwargs)) if self.frozen is None else self.frozen.whole(args, kwargs)

    def call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """Run the original model in its own precision; returns the flat outputs."""
        return call_flat(self.module, *self.whole(args, kwargs))

    def call_double(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """Run a float64 copy of the original model; returns the flat outputs.

        Raises RuntimeError where the model fixes float32 inside and cannot run in float64.
        """
        double = copy.deepcopy(self.module).double()
        wide = pytree.tree_map(_double, self.whole(args, kwargs))
        return call_flat(double, *wide)


def call_flat(module: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """Call a module without gradients and flatten what it returns; its buffers are put back after."""
    buffers = list(module.buffers()) if isinstance(module, torch.nn.Module) else []
    before = [b.clone() for b in buffers]
    with torch.no_grad():
        own = pytree.tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, (args, dict(kwargs)))
        flat = pytree.tree_leaves(module(*own[0], **own[1]))
        result = [x.detach().clone() if isinstance(x, torch.Tensor) else x for x in flat]
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
    return result


def tensors(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """Return the tensors of a call in flat order: the order of a graph's inputs."""
    return [x for x in pytree.tree_leaves((args, dict(kwargs))) if isinstance(x, torch.Tensor)]


def _double(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf
