"""From a text or an object to a model that has been called once on its example inputs."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from compiler.errors import UnsupportedModelError, UsageError
from compiler.frontends.onnx import OnnxModule
from edgewright.models.freezing import freeze as freeze_inputs
from edgewright.models.inputs import InputSpec, describe, draw_call, redraw
from edgewright.models.loaded import LoadedModel
from edgewright.models.onnx_source import load_onnx
from edgewright.models.python_source import as_call, load_python
from edgewright.models.randomize import randomize as randomize_weights
from edgewright.models.timm_source import load_timm
from edgewright.models.torchvision_source import load_torchvision
from edgewright.models.transformers_source import load_transformers

ACCEPTED = "timm:NAME, hf:NAME, torchvision:NAME, package.module:attr, file.py:attr, x.pt2, x.onnx"
ZOOS = {"timm": load_timm, "hf": load_transformers, "torchvision": load_torchvision}
MAX_BATCH = 64


def load_model(
    model: str | torch.nn.Module | torch.export.ExportedProgram,
    inputs: Sequence[InputSpec] | Any = None,
    *,
    randomize: int | None = None,
    dynamic_batch: bool = False,
    freeze: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Load a model, settle its example inputs, and call it once on them.

    `inputs` is a list of `InputSpec`, or example inputs: a tensor, a tuple of arguments or a dict
    of keyword arguments. `randomize` is the seed of `edgewright.models.randomize`. `freeze` fixes
    inputs by name (`edgewright.models.freezing`).

    Raises UsageError for anything unreadable or inputs the model does not take, and
    UnsupportedModelError for a module left in training mode.
    """
    loaded = _with_inputs(_named(model) if isinstance(model, str) else _given(model), inputs)
    refuse_training(loaded)
    loaded = freeze_inputs(loaded, freeze or {})
    if loaded.frozen and isinstance(loaded.source, OnnxModule):
        loaded.source.assume(loaded.frozen.by_name())
    if dynamic_batch:
        args, kwargs = redraw((loaded.args, loaded.kwargs), seed=0, batch=2)  # torch.export fixes a 1
        loaded = dataclasses.replace(loaded, args=args, kwargs=kwargs, batch=MAX_BATCH)
    try_once(loaded)
    if randomize is not None:
        randomize_weights(loaded, randomize)
    return loaded


def _named(spec: str) -> LoadedModel:
    if (zoo := spec.partition(":")[0]) in ZOOS and ":" in spec:
        return ZOOS[zoo](spec)
    if spec.endswith(".pt2"):
        return _load_program(spec)
    if spec.endswith(".onnx"):
        return load_onnx(spec)
    if ":" not in spec:
        exists = "names no model in it" if Path(spec).exists() else "is no file"
        raise UsageError(f"{spec!r} {exists}; accepted: {ACCEPTED}")
    return load_python(spec)


def _load_program(spec: str) -> LoadedModel:
    if not Path(spec).is_file():
        raise UsageError(f"there is no file {spec}")
    try:
        program = torch.export.load(spec)
    except Exception as error:  # torch.export.load raises whatever its zip, JSON and pickle readers raise
        reason = str(error).partition(". ")[0]
        raise UsageError(f"{spec} is not a torch.export program: {type(error).__name__}: {reason}") from error
    return _program(program, spec)


def _program(program: torch.export.ExportedProgram, spec: str) -> LoadedModel:
    """Return a program with the example inputs it was exported with."""
    args, kwargs = program.example_inputs or ((), {})
    return LoadedModel(program, tuple(args), dict(kwargs), spec)


def _given(model: Any) -> LoadedModel:
    if isinstance(model, torch.export.ExportedProgram):
        return _program(model, type(model).__name__)
    if isinstance(model, torch.nn.Module):
        return LoadedModel(model, (), {}, type(model).__name__)
    raise UsageError(
        f"a {type(model).__name__} is no model; accepted: a torch.nn.Module, a program, or {ACCEPTED}"
    )


def _with_inputs(loaded: LoadedModel, inputs: Any) -> LoadedModel:
    if inputs is not None and not (isinstance(inputs, Sequence) and not len(inputs)):
        specs = isinstance(inputs, Sequence) and all(isinstance(i, InputSpec) for i in inputs)
        args, kwargs = draw_call(inputs) if specs else as_call(inputs)
        expected = loaded.expected or (
            f"its example is {describe((loaded.args, loaded.kwargs))}" if loaded.args else ""
        )
        return dataclasses.replace(loaded, args=args, kwargs=kwargs, expected=expected)
    if not loaded.args and not loaded.kwargs:
        known = f" ({loaded.expected})" if loaded.expected else ""
        raise UsageError(
            f"{loaded.spec} comes without example inputs{known}: give --input 1x3x224x224 (once an input), "
            f"or return (module, example_inputs) from the callable"
        )
    return loaded


def refuse_training(loaded: LoadedModel) -> None:
    """Raise UnsupportedModelError, naming the first module that is in training mode."""
    if not isinstance(loaded.source, torch.nn.Module):
        return
    name = next((n for n, m in loaded.source.named_modules() if m.training), None)
    if name is not None:
        part = f"its module {name!r}" if name else "it"
        raise UnsupportedModelError(
            f"{loaded.spec}: {part} is in training mode, where BatchNorm and dropout compute something "
            f"else; call .eval() on the model before handing it over"
        )


def try_once(loaded: LoadedModel) -> None:
    """Call the eager model on its inputs; raises UsageError with what was given and expected."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the user's own code may warn; it is not ours to judge
            results = loaded.call(loaded.args, loaded.kwargs)
    except UnsupportedModelError:  # an ONNX graph that says itself what cannot be
        raise
    except Exception as error:  # a model may raise anything on inputs it was not written for
        given = describe((loaded.args, loaded.kwargs))
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        expected = f"; {loaded.expected}" if loaded.expected else ""
        raise UsageError(f"{loaded.spec} does not run on {given}{expected}: {reason}") from error
    if not any(isinstance(r, torch.Tensor) for r in results):
        raise UsageError(f"{loaded.spec} returns no tensor, so there is nothing to compile")
