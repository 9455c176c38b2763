"""Runtimes that graphs can be lowered to: one folder each, which is its registration.

A folder `targets/<name>/` that defines `TARGET` (the port in `compiler.target`) is the target
`<name>`. Listing and getting targets imports no SDK; each target imports its own when it works.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import cast

from compiler.errors import UsageError
from compiler.target import Target


def list_targets() -> tuple[str, ...]:
    """Return the names of all targets in this tree, sorted, whether or not their SDK is installed."""
    folder = Path(__file__).parent
    found = (p.parent.name for p in folder.glob("*/__init__.py") if "TARGET" in p.read_text("utf-8"))
    return tuple(sorted(found))


def get_target(name: str) -> Target:
    """Return the target of that name; UsageError listing the known ones where there is none."""
    known = list_targets()
    if name not in known:
        raise UsageError(f"there is no target {name!r}; known targets: {', '.join(known)}")
    return cast(Target, importlib.import_module(f"targets.{name}").TARGET)
