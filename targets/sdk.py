"""The packages that a target's SDK is made of: which are missing, and their versions."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping

Packages = Mapping[str, str]  # what is imported -> the name of its distribution


def missing(packages: Packages, extra: str) -> str | None:
    """Return None where all can be imported, else what to install."""
    absent = [name for module, name in packages.items() if importlib.util.find_spec(module) is None]
    return None if not absent else f"{', '.join(absent)} missing: pip install 'edgewright[{extra}]'"


def versions(packages: Packages) -> dict[str, str]:
    """Return distribution -> version."""
    return {name: importlib.metadata.version(name) for name in packages.values()}
