"""Shorter time limits for the code under test: a stall of a minute tells no more than one of seconds."""

from __future__ import annotations

import sys
from types import FunctionType, ModuleType

from devices import channel, line_session
from devices.shell import device, storage
from devices.transports.adb import choice, daemon, direct, greeting, packets, server, shell, stream, sync

MODULES = (
    channel,
    line_session,
    device,
    storage,
    choice,
    daemon,
    direct,
    greeting,
    packets,
    server,
    shell,
    stream,
    sync,
)


def shorten(longest_s: float) -> int:
    """Cap every `NAME_S` of the transport, and the defaults made of them; return how many there were.

    For the rest of this process.
    """
    return sum(
        _shorten_names(owner, longest_s) for module in MODULES for owner in (module, *_classes(module))
    )


def _classes(module: ModuleType) -> list[type]:
    return [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]


def _shorten_names(owner: ModuleType | type, longest_s: float) -> int:
    found = 0
    for name, value in list(vars(owner).items()):
        if name.endswith("_S") and isinstance(value, int | float):
            setattr(owner, name, min(float(value), longest_s))
            found += 1
        elif isinstance(value, FunctionType) and value.__module__ in sys.modules and value.__defaults__:
            names = value.__code__.co_varnames[: value.__code__.co_argcount][-len(value.__defaults__) :]
            value.__defaults__ = tuple(
                min(float(d), longest_s) if name.endswith("_s") and isinstance(d, int | float) else d
                for name, d in zip(names, value.__defaults__, strict=True)
            )
    return found
