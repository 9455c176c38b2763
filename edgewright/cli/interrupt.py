"""Ctrl-C and a polite kill end a command, even where an exception cannot.

Python drops what is raised inside a finaliser or a weak reference's callback, a `KeyboardInterrupt` too. The
request is remembered, and raised again at the next step of the work.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn


class _Request:
    """Whether a stop was asked for; no lock, which a handler that a second signal interrupts would hold."""

    asked = False


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let a polite kill clean up as Ctrl-C does; only the main thread may set a signal's handler.

    A Ctrl-C that whoever started us has switched off stays off.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    numbers = [signal.SIGTERM, *([] if deaf else [signal.SIGINT])]
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _Request.asked = False


def check() -> None:
    """Raise KeyboardInterrupt where one was asked for and got lost."""
    if _Request.asked:
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    _Request.asked = True
    raise KeyboardInterrupt
