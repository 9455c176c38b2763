"""Calibration batches from the user's own code, `data.py:batches`.

The attribute is a sequence of batches, or a callable without arguments that returns one; a batch
is a tensor, or a tuple of the model's arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

import torch
from torch.utils import _pytree as pytree

from compiler.errors import UsageError
from edgewright.models.python_source import find_attribute, guarded, user_line


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
    batches = tuple(read_batches(spec, found))
    if not batches:
        raise UsageError(f"{spec} holds no batch; calibration needs at least one")
    return tuple(batches)


def read_batches(name: str, batches: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield each batch as a tuple of arguments.

    Raises UsageError where one holds no tensor, and where the user's code raises while it makes one: with
    the number of the batch, the user's line and the exception as the cause.
    """
    items: Iterator[Any] | None = None
    for index in count():
        try:
            items = iter(batches) if items is None else items
            item = next(items)
        except StopIteration:
            return
        except UsageError:
            raise
        except (Exception, SystemExit) as error:
            raise UsageError(
                f"{name}: batch {index} (counted from 0) could not be made: {type(error).__name__} at "
                f"{user_line(error)}: {error}"
            ) from error
        yield _batch(name, index, item)


def _batch(name: str, index: int, item: Any) -> tuple[Any, ...]:
    batch = tuple(item) if isinstance(item, tuple | list) else (item,)
    if not any(isinstance(part, torch.Tensor) for part in pytree.tree_leaves(batch)):
        kinds = ", ".join(type(part).__name__ for part in batch) or "nothing"
        raise UsageError(
            f"{name}: batch {index} (counted from 0) holds no tensor but {kinds}; a batch is a tensor or a "
            f"tuple of arguments"
        )
    return batch
