"""State dicts from files, fitted to the model they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from compiler.compress.average import StateDict, Untrained, check_alike, representatives
from compiler.compress.batch_statistics import batch_norms
from compiler.errors import UsageError

Checkpoint: TypeAlias = str | Path | nn.Module | StateDict
WRAPPERS = ("state_dict", "model_state_dict", "model")  # where training loops put the state dict


def state_of(checkpoint: Checkpoint, module: nn.Module, name: str) -> dict[str, torch.Tensor]:
    """Return a checkpoint's state dict in the keys, order, ties and floating dtypes of a module.

    `checkpoint` is a `.safetensors` file, a file of `torch.save` with a state dict in it, a state dict, or
    a module. A key that is missing because it is tied to one that is there is filled in.

    Raises UsageError for a file that holds no state dict, and at the first key that does not fit.
    """
    if isinstance(checkpoint, nn.Module):
        found: StateDict = checkpoint.state_dict()
    else:
        found = checkpoint if isinstance(checkpoint, Mapping) else read_state(Path(checkpoint))
    return _fitted(found, module.state_dict(), name)


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict from a file, never running code in it; raises UsageError where there is none."""
    if not path.is_file():
        raise UsageError(f"there is no checkpoint {path}")
    try:
        found = _loaded(path)
    except Exception as error:  # both readers raise whatever their zip, pickle and header parsers raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(
            f"{path} cannot be read as weights: {reason}; accepted: a state dict in .safetensors or "
            f"torch.save form"
        ) from error
    if isinstance(found, Mapping) and not _is_state(found):
        found = next((found[key] for key in WRAPPERS if key in found), found)
    if not _is_state(found):
        holds = ", ".join(map(str, list(found)[:6])) if isinstance(found, Mapping) else type(found).__name__
        raise UsageError(f"{path} holds no state dict (name -> tensor) but: {holds or 'nothing'}")
    return dict(found)


def untrained_keys(module: nn.Module) -> Untrained:
    """Return which keys of a module's state dict are BatchNorm statistics, and which other buffers."""
    buffers = {name for name, _ in module.named_buffers(remove_duplicate=False)} & set(module.state_dict())
    norms = {id(norm) for norm in batch_norms(module).values()}
    owners = [n for n, part in module.named_modules(remove_duplicate=False) if id(part) in norms]
    statistics = {key for key in buffers if key.rpartition(".")[0] in owners}
    return Untrained(frozenset(buffers - statistics), frozenset(statistics))


def _loaded(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _is_state(found: Any) -> bool:
    return (
        isinstance(found, Mapping)
        and bool(found)
        and all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in found.items())
    )


def _fitted(found: StateDict, template: StateDict, name: str) -> dict[str, torch.Tensor]:
    whole = _with_ties(found, template, name)
    cast = {key: _like(value, template.get(key)) for key, value in whole.items()}
    check_alike([template, cast], ["the model", name])
    firsts = representatives(template)
    return {key: cast[firsts[key]] for key in template}


def _with_ties(found: StateDict, template: StateDict, name: str) -> dict[str, torch.Tensor]:
    """Return the state dict with every tied key there, once one of them is."""
    whole = {key: value.detach() for key, value in found.items()}
    groups: dict[str, list[str]] = {}
    for key, first in representatives(template).items():
        groups.setdefault(first, []).append(key)
    for keys in groups.values():
        there = [key for key in keys if key in whole]
        if any(not torch.equal(whole[there[0]], whole[key]) for key in there):
            raise UsageError(f"{keys[0]!r} and {keys[-1]!r} are tied in the model and differ in {name}")
        if there:
            whole |= dict.fromkeys(keys, whole[there[0]])
    return whole


def _like(value: torch.Tensor, template: torch.Tensor | None) -> torch.Tensor:
    """Return a floating tensor in the model's floating dtype: a checkpoint may be kept in half precision."""
    both = template is not None and value.is_floating_point() and template.is_floating_point()
    return value.to(template.dtype) if both and template is not None else value
