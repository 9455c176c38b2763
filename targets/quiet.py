"""Keeps an SDK's chatter off the user's terminal while it works.

SDKs print to stdout, warn of their own deprecations, log at warning level, and some call
`logging.basicConfig` when imported, which would route every library's log to stderr.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator

LOGGERS = (
    *("torch", "torch.onnx", "torchao", "py.warnings", "root"),
    *("executorch", "onnxscript", "onnx_ir", "litert_torch", "absl", "jax", "tvm", "tvm_ffi", "transformers"),
)


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Collect what is printed to `sys.stdout`, silence warnings and the loggers, then restore all."""
    printed = io.StringIO()
    root = logging.getLogger()
    handlers, levels = list(root.handlers), {n: logging.getLogger(n).level for n in LOGGERS}
    root_level = root.level
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(printed):
            warnings.simplefilter("ignore")
            for name in LOGGERS:
                logging.getLogger(name).setLevel(logging.CRITICAL)
            yield printed
    finally:
        root.handlers[:] = handlers
        root.setLevel(root_level)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def quiet_native() -> Iterator[None]:
    """Silence also what C++ writes to the process's own stdout and stderr meanwhile."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    try:
        with quiet(), tempfile.TemporaryFile() as sink:
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
            yield
    finally:
        for number, copy in enumerate(saved, start=1):
            os.dup2(copy, number)
            os.close(copy)
