"""Keeps the exporter's chatter off the user's terminal while it works."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

_LOGGERS = ("onnxscript", "onnx_ir", "torch.onnx", "torch")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what is printed, warned and logged meanwhile, then restore all."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            for name in _LOGGERS:
                logging.getLogger(name).setLevel(logging.CRITICAL)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
