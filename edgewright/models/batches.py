"""Calibration batches from the user's own code, `data.py:batches`.

The attribute is a sequence of batches, or a callable without arguments that returns one; a batch
is a tensor, or a tuple of the model's arguments.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from compiler.errors import UsageError
from edgewright.models.python_source import find_attribute, guarded


def load_batches(spec: str) -> tuple[tuple[Any, ...], ...]:
    """Load all batches; raises UsageError where there are none or one is no batch."""
    where, _, attribute = spec.rpartition(":")
    if not where or not attribute:
        raise UsageError(f"--calibration {spec!r} names no attribute: write data.py:batches")
    found = find_attribute(spec, where, attribute)
    if callable(found):
        found = guarded(spec, found)
    if not isinstance(found, Iterable) or isinstance(found, str | dict):
        raise UsageError(f"{spec} gives a {type(found).__name__}, not a sequence of batches")
    batches = guarded(spec, lambda: tuple(_batch(spec, item) for item in found))
    if not batches:
        raise UsageError(f"{spec} holds no batch; calibration needs at least one")
    return tuple(batches)


def _batch(spec: str, item: Any) -> tuple[Any, ...]:
    batch = tuple(item) if isinstance(item, tuple | list) else (item,)
    if not any(isinstance(part, torch.Tensor) for part in batch):
        raise UsageError(f"a batch of {spec} holds no tensor; a batch is a tensor or a tuple of arguments")
    return batch
