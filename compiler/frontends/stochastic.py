"""A model that draws random numbers in eval -> Graph, for the methods that take the draw away.

Nothing that draws can be compiled, so `import_model` refuses it. Averaging experts under a random
partition (`compiler.compress.experts`) starts from such a model and ends at one that draws nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch.export import ExportedProgram

from compiler.errors import UnsupportedModelError
from compiler.frontends.blame import blame
from compiler.frontends.torch_export import import_program
from compiler.ir.graph import Graph


def import_stochastic(
    model: torch.nn.Module | ExportedProgram, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Graph:
    """Import a module in eval mode, or an exported program, with its random draws as operations.

    Raises UnsupportedModelError (exit 3) for whatever else `import_model` refuses.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = model if isinstance(model, ExportedProgram) else _exported(model, args, kwargs)
    return import_program(program, draws=True)


def _exported(model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ExportedProgram:
    try:
        return torch.export.export(model, args, dict(kwargs))
    except Exception as error:  # torch.export raises anything the user's forward raises
        raise UnsupportedModelError(blame(error)) from error
