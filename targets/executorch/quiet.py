"""Keeps the SDK's chatter off the user's terminal while it works.

ExecuTorch prints to stdout, warns of its own deprecations, logs at warning level, and calls
`logging.basicConfig` when imported, which would route every library's log to stderr.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

_LOGGERS = ("executorch", "torch", "torchao", "py.warnings", "root")


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Collect what the SDK prints to `sys.stdout`, silence its warnings and logs, then restore all."""
    printed = io.StringIO()
    root = logging.getLogger()
    handlers, levels = list(root.handlers), {n: logging.getLogger(n).level for n in _LOGGERS}
    root_level = root.level
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(printed):
            warnings.simplefilter("ignore")
            for name in _LOGGERS:
                logging.getLogger(name).setLevel(logging.CRITICAL)
            yield printed
    finally:
        root.handlers[:] = handlers
        root.setLevel(root_level)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
