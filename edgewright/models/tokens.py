"""A model loaded at several token counts, one method of the program for each.

The token axis is where `--input 1xTx512` has its T, or else the second axis of every example input
of rank 2 and above. The module is loaded once: its weights are the same tensors at every count.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from compiler.errors import UsageError
from compiler.target import FORWARD
from edgewright.models.freezing import freeze as freeze_inputs
from edgewright.models.inputs import InputSpec, describe, draw_call, redraw, resize
from edgewright.models.load import load_model, try_once
from edgewright.models.loaded import LoadedModel

AXIS = 1  # of an example input, where --input marks none


def method_name(tokens: int) -> str:
    """Return the name of the method for a token count."""
    return f"{FORWARD}_t{tokens}"


def parse_tokens(text: str) -> tuple[int, ...]:
    """Read `1,128`; raises UsageError for what is no list of different positive numbers."""
    parts = [part.strip() for part in text.split(",")]
    counts = tuple(int(part) for part in parts if part.isdecimal() and int(part))
    if len(counts) != len(parts) or len(set(counts)) != len(counts):
        raise UsageError(f"--tokens {text!r}: write different positive numbers, 1,128")
    return counts


def load_methods(
    model: str | torch.nn.Module | torch.export.ExportedProgram,
    inputs: Sequence[InputSpec] | Any,
    tokens: Sequence[int],
    *,
    randomize: int | None = None,
    dynamic_batch: bool = False,
    freeze: Mapping[str, Any] | None = None,
) -> dict[str, LoadedModel]:
    """Load a model at each token count, by method name; without counts, once, as `forward`.

    Arguments and errors as `load_model`; UsageError also where no input has a token axis and
    where the model refuses a count.
    """
    specs = _specs(inputs)
    if specs and tokens and not any(spec.token_axes for spec in specs):
        raise UsageError("--tokens needs a token axis: write T in its place, --input 1xTx512")
    first = [spec.at(tokens[0]) for spec in specs] if specs and tokens else inputs
    base = load_model(model, first, randomize=randomize, dynamic_batch=dynamic_batch, freeze=freeze)
    if not tokens:
        return {FORWARD: base}
    return {method_name(count): _at(base, specs, count, freeze or {}) for count in tokens}


def _specs(inputs: Any) -> Sequence[InputSpec]:
    listed = isinstance(inputs, Sequence) and all(isinstance(i, InputSpec) for i in inputs)
    return inputs if listed else ()


def _at(base: LoadedModel, specs: Sequence[InputSpec], count: int, freeze: Mapping[str, Any]) -> LoadedModel:
    sized = _specified(base, specs, count, freeze) if specs else _resized(base, count)
    if isinstance(base.source, torch.export.ExportedProgram):
        sized = dataclasses.replace(sized, source=_specialised(sized, base.source))
    try_once(sized)
    return sized


def _specified(
    base: LoadedModel, specs: Sequence[InputSpec], count: int, freeze: Mapping[str, Any]
) -> LoadedModel:
    args, kwargs = draw_call([spec.at(count) for spec in specs])
    if base.batch is not None:
        args, kwargs = redraw((args, kwargs), seed=0, batch=2)  # torch.export fixes a 1
    expected = f"--tokens {count} was put where --input has its T"
    return freeze_inputs(
        dataclasses.replace(base, args=args, kwargs=kwargs, expected=expected, frozen=None), freeze
    )


def _resized(base: LoadedModel, count: int) -> LoadedModel:
    call = (base.args, base.kwargs)
    leaves = pytree.tree_leaves((base.args, dict(base.kwargs)))
    if not any(isinstance(leaf, torch.Tensor) and leaf.dim() > AXIS for leaf in leaves):
        raise UsageError(
            f"--tokens sizes axis {AXIS} of every input of rank 2 and above; {base.spec} has none, its "
            f"inputs are {describe(call)}: mark the token axis, --input 1xTx512"
        )
    args, kwargs = resize(call, AXIS, count)
    expected = f"--tokens {count} was put in axis {AXIS}; --input 1xTx512 marks another"
    return dataclasses.replace(base, args=args, kwargs=kwargs, expected=expected)


def _specialised(sized: LoadedModel, program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return a program fixed to the sizes of a call; one that was exported at other sizes refuses them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, on unlifting a program
            return torch.export.export(program.module(), *sized.whole(sized.args, sized.kwargs))
    except Exception as error:  # torch.export raises whatever a guard raises
        given = describe((sized.args, sized.kwargs))
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"{sized.spec} was exported at other sizes and does not run on {given}: {reason}; "
            f"export it with a dynamic token axis"
        ) from error
