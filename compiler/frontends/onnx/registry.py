"""The set of ONNX operators: each handler in a file of `operators/`, found by the folder."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

Handler = Callable[..., Any]


@dataclass(frozen=True)
class Operator:
    """A handler, the inputs that it takes on the host, and whether it sees slots in place of tensors."""

    run: Handler
    host: tuple[int, ...] = ()
    slots: bool = False


_KNOWN: dict[tuple[str, str], Operator] = {}


def op(
    *names: str, host: tuple[int, ...] = (), slots: bool = False, domain: str = ""
) -> Callable[[Handler], Handler]:
    """Register a handler `run(call, *inputs)` for operators of a domain.

    Inputs come as tensors, those at `host` as NumPy arrays, absent ones as None; with `slots`, as they are.
    It returns a tensor, an array, a list (a sequence), None, or a tuple of those for several outputs.
    """

    def register(run: Handler) -> Handler:
        for name in names:
            _KNOWN[domain, name] = Operator(run, host, slots)
        return run

    return register


@cache
def operators() -> dict[tuple[str, str], Operator]:
    """Return all operators by domain and name."""
    from compiler.frontends.onnx import operators as folder

    for found in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(f"{folder.__name__}.{found.name}")
    return _KNOWN
