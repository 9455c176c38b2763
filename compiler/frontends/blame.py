"""Where in the user's own code something happened: from FX metadata or from an exception."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import Any

import torch

_TORCH = str(Path(torch.__file__).parent)
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


def source_line(node: Any) -> str:
    """Return `file:line` of the innermost frame outside torch that made an FX node, or ''."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    own = [f"{file}:{line}" for file, line in frames if not file.startswith((_TORCH, "<"))]
    return own[-1] if own else ""


def blame(error: BaseException) -> str:
    """Return one paragraph on a failed export: what, and the user's line it happened at."""
    cause = _root(error)
    frames = [f for f in traceback.extract_tb(cause.__traceback__) if not _foreign(f.filename)]
    where = f" at {frames[-1].filename}:{frames[-1].lineno}: `{frames[-1].line}`" if frames else ""
    text = str(cause).strip().splitlines()
    first = text[0] if text else type(cause).__name__
    if _data_dependent(cause):
        return (
            f"the model's control flow or shapes depend on data{where}. Exporting needs one path for all "
            f"inputs: use torch.where, or make the value a constant. torch says: {first}"
        )
    return f"the model cannot be exported{where}: {type(cause).__name__}: {first}"


def _root(error: BaseException) -> BaseException:
    seen = error
    while seen.__cause__ is not None and not _data_dependent(seen):
        seen = seen.__cause__
    return seen


def _data_dependent(error: BaseException) -> bool:
    names = {c.__name__ for c in type(error).__mro__}
    text = str(error)
    return (
        bool(names & {"GuardOnDataDependentSymNode", "DataDependentOutputException"})
        or "data-dependent" in text
    )


def _foreign(filename: str) -> bool:
    return filename.startswith((_TORCH, "<", str(Path(__file__).parent)))
