"""The front door: compile, profile, calibrate, tune and search a model in one call each.

    import edgewright as ew

    artifact = ew.compile(module.eval(), inputs=(torch.randn(1, 3, 224, 224),), profile="host", out="out")
    measurement = ew.profile(artifact)

The names are loaded on first use, so that `import edgewright` costs nothing and loads no runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgewright.averaging import average
    from edgewright.calibration import calibrate
    from edgewright.compilation import compile
    from edgewright.explanation import explain
    from edgewright.profiling import profile
    from edgewright.searching import search
    from edgewright.tuning import tune

__all__ = ["average", "calibrate", "compile", "explain", "profile", "search", "tune"]

_HOME = {
    "average": "edgewright.averaging",
    "calibrate": "edgewright.calibration",
    "compile": "edgewright.compilation",
    "explain": "edgewright.explanation",
    "profile": "edgewright.profiling",
    "search": "edgewright.searching",
    "tune": "edgewright.tuning",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    import importlib

    if name not in _HOME:
        raise AttributeError(f"module 'edgewright' has no attribute {name!r}")
    found = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = found
    return found
