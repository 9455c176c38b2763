"""`file.py:attr` and `package.module:attr`: a model the user wrote.

The working directory is appended to `sys.path`, never put in front: a user's file can import its
neighbours and cannot shadow a package of ours. An exception inside the user's file is told with
the line of that file.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from compiler.errors import UsageError
from edgewright.models.loaded import LoadedModel


def load_python(spec: str) -> LoadedModel:
    """Load `file.py:attr` or `package.module:attr`; raises UsageError with the user's line."""
    where, _, attribute = spec.rpartition(":")
    if not where or not attribute:
        raise UsageError(f"{spec!r} names no attribute: write {spec.rstrip(':') or 'file.py'}:attr")
    found = find_attribute(spec, where, attribute)
    if isinstance(found, torch.nn.Module | torch.export.ExportedProgram):
        return LoadedModel(found, (), {}, spec)
    if not callable(found):
        raise _not_a_model(spec, found)
    return _from_result(spec, guarded(spec, found))


def find_attribute(spec: str, where: str, attribute: str) -> Any:
    """Return an attribute of a user's file or module; raises UsageError where there is none."""
    module = _from_file(spec, Path(where)) if where.endswith(".py") else _from_package(spec, where)
    if not hasattr(module, attribute):
        names = [n for n in vars(module) if not n.startswith("_")]
        close = difflib.get_close_matches(attribute, names, n=3)
        hint = (
            f"did you mean {' or '.join(close)}?" if close else f"it has: {', '.join(names[:8]) or 'nothing'}"
        )
        raise UsageError(f"{where} has no attribute {attribute!r}; {hint}")
    return getattr(module, attribute)


def _from_file(spec: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"there is no file {path} (model {spec!r})")
    resolved = path.resolve()
    name = f"edgewright_user_{resolved.stem}_{hashlib.sha256(str(resolved).encode()).hexdigest()[:8]}"
    source = importlib.util.spec_from_file_location(name, resolved)
    assert source is not None
    assert source.loader is not None
    module = importlib.util.module_from_spec(source)
    _append_path(resolved.parent)
    sys.modules[name] = module  # dataclasses and pickles look their module up there
    loader = source.loader
    try:
        guarded(spec, lambda: loader.exec_module(module))
    except UsageError:
        del sys.modules[name]
        raise
    return module


def _from_package(spec: str, name: str) -> ModuleType:
    _append_path(Path.cwd())
    found = guarded(spec, lambda: _find_spec(name))
    if found is None:
        raise UsageError(
            f"there is no module {name!r} on the Python path or in {Path.cwd()} (model {spec!r}); "
            f"accepted: timm:NAME, package.module:attr, file.py:attr, x.pt2"
        )
    module: ModuleType = guarded(spec, lambda: importlib.import_module(name))
    return module


def _find_spec(name: str) -> Any:
    """Find a module; None where it or a package above it does not exist."""
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            return None
        raise


def _append_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def guarded(spec: str, call: Callable[[], Any]) -> Any:
    """Run the user's code; whatever it raises becomes a UsageError with the user's line."""
    try:
        return call()
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        line = user_line(error)
        raise UsageError(f"{spec}: {type(error).__name__} at {line}: {error}") from error


def user_line(error: BaseException) -> str:
    """Return `file:line` of the innermost frame outside installed packages and this one."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    ours = str(Path(__file__).parent.parent)
    frames = traceback.extract_tb(error.__traceback__)
    user = [
        f
        for f in frames
        if not f.filename.startswith((ours, "<"))
        and "site-packages" not in f.filename
        and not f.filename.startswith(str(Path(importlib.__file__).parent.parent))
    ]
    last = (user or frames)[-1]
    return f"{last.filename}:{last.lineno}"


def _from_result(spec: str, result: Any) -> LoadedModel:
    if isinstance(result, torch.nn.Module | torch.export.ExportedProgram):
        return LoadedModel(result, (), {}, spec)
    pair = isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], torch.nn.Module)
    if not pair:
        raise _not_a_model(spec, result)
    args, kwargs = as_call(result[1])
    return LoadedModel(result[0], args, kwargs, spec)


def as_call(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read example inputs: a tensor, a tuple or list of arguments, or a dict of keyword arguments."""
    if isinstance(inputs, dict):
        return (), dict(inputs)
    if isinstance(inputs, tuple | list):
        return tuple(inputs), {}
    return (inputs,), {}


def _not_a_model(spec: str, found: Any) -> UsageError:
    return UsageError(
        f"{spec} is no model but a {type(found).__name__}; accepted: a torch.nn.Module, or a callable "
        f"without arguments that returns a module or (module, example_inputs)"
    )
