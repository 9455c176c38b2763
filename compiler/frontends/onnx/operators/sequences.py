"""Sequences, optionals and control flow, all unrolled: lengths and conditions must be known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compiler.errors import UnsupportedModelError
from compiler.frontends.onnx.module import Call
from compiler.frontends.onnx.operators.shapes import ints, scalar
from compiler.frontends.onnx.registry import op
from compiler.frontends.onnx.values import Slot
from compiler.frontends.onnx.values import host as on_host

_MOST_STEPS = 4096


@op("SequenceEmpty")
def sequence_empty(call: Call) -> list[Any]:
    """Return an empty sequence."""
    return []


@op("SequenceConstruct", slots=True)
def sequence_construct(call: Call, *items: Any) -> list[Any]:
    """Return a sequence of values."""
    return list(items)


@op("SequenceAt", slots=True)
def sequence_at(call: Call, items: list[Any], place: Any) -> Any:
    """Return one element."""
    return items[int(scalar(place, "a place in a sequence must be known"))]


@op("SequenceInsert", slots=True)
def sequence_insert(call: Call, items: list[Any], item: Any, place: Any = None) -> list[Any]:
    """Insert an element, at the end by default."""
    at = len(items) if place is None else int(scalar(place, "a place in a sequence must be known"))
    return [*items[:at], item, *items[at:]]


@op("SequenceErase", slots=True)
def sequence_erase(call: Call, items: list[Any], place: Any = None) -> list[Any]:
    """Drop an element, the last by default."""
    at = int(scalar(place, "a place in a sequence must be known", -1)) % len(items)
    return [*items[:at], *items[at + 1 :]]


@op("SequenceLength", slots=True)
def sequence_length(call: Call, items: list[Any]) -> Any:
    """Return the number of elements, on the host."""
    return np.array(len(items), dtype=np.int64)


@op("SplitToSequence", slots=True)
def split_to_sequence(call: Call, x: Any, split: Any = None) -> list[Any]:
    """Cut along an axis into a sequence."""
    axis = call.attr("axis", 0)
    x = call.tensor(x)
    if split is None:
        parts = torch.split(x, 1, axis)
        return list(parts) if call.attr("keepdims", 1) else [p.squeeze(axis) for p in parts]
    sizes = split.as_array("the parts of a sequence must be known")
    return list(torch.split(x, int(sizes) if sizes.ndim == 0 else ints(sizes), axis))


@op("ConcatFromSequence")
def concat_from_sequence(call: Call, items: list[Tensor]) -> Tensor:
    """Join a sequence, along a new axis where `new_axis`."""
    run = torch.stack if call.attr("new_axis", 0) else torch.cat
    return run(items, call.attr("axis"))


@op("SequenceMap", slots=True)
def sequence_map(call: Call, *inputs: Any) -> tuple[list[Any], ...]:
    """Run a body on each element; other inputs are the same for all, or sequences walked alike."""
    names = call.body_inputs("body")
    results = []
    for i in range(len(inputs[0])):
        given = [s[i] if isinstance(s, list) else s for s in inputs]
        results.append(call.body("body", dict(zip(names, given, strict=True))))
    return tuple(list(column) for column in zip(*results, strict=True))


@op("Optional", slots=True)
def optional(call: Call, x: Any = None) -> Any:
    """Return the value, or none."""
    return x


@op("OptionalGetElement", slots=True)
def optional_get(call: Call, x: Any) -> Any:
    """Return the value of an optional."""
    return x


@op("OptionalHasElement", slots=True)
def optional_has(call: Call, x: Any = None) -> Any:
    """Tell whether there is a value, on the host."""
    return np.array(x is not None)


@op("If", slots=True)
def if_(call: Call, condition: Any) -> tuple[Any, ...]:
    """Take the branch that a known condition chooses."""
    chosen = scalar(condition, "which branch of If is taken must be known")
    return tuple(call.body("then_branch" if chosen else "else_branch", {}))


@op("Loop", slots=True)
def loop(call: Call, trips: Any, condition: Any, *state: Any) -> tuple[Any, ...]:
    """Unroll a loop whose trip count and conditions are known."""
    limit = scalar(trips, "the trip count of Loop must be known", math.inf)
    names = call.body_inputs("body")
    values, scans, going = (
        list(state),
        [],
        condition is None or bool(scalar(condition, "a condition of Loop")),
    )
    step = 0
    while going and step < limit:
        if step == _MOST_STEPS:
            raise UnsupportedModelError(f"a Loop of more than {_MOST_STEPS} steps")
        inputs = [on_host("step", np.array(step, dtype=np.int64)), on_host("going", np.array(True)), *values]
        results = call.body("body", dict(zip(names, inputs, strict=True)))
        going = bool(scalar(results[0], "whether Loop goes on must be known"))
        values = results[1 : 1 + len(state)]
        scans.append(results[1 + len(state) :])
        step += 1
    return (*values, *_stacked(call, scans))


def _stacked(call: Call, scans: list[list[Any]], axis: int = 0) -> list[Any]:
    if not scans and call.outputs:
        raise UnsupportedModelError("a loop of no steps: the shapes of what it collects are not known")
    return [torch.stack([call.tensor(s) for s in column], axis) for column in zip(*scans, strict=True)]


@op("Scan", slots=True)
def scan(call: Call, *inputs: Any) -> tuple[Any, ...]:
    """Unroll a walk along one axis of each scanned input."""
    if call.version < 9:
        return _scan_8(call, *inputs)
    count = call.attr("num_scan_inputs")
    state, scanned = list(inputs[:-count]), [call.tensor(s) for s in inputs[-count:]]
    axes = call.attr("scan_input_axes", [0] * count)
    backwards = call.attr("scan_input_directions", [0] * count)
    names = call.body_inputs("body")
    scans: list[list[Any]] = []
    length = scanned[0].shape[axes[0]]
    for step in range(length):
        places = [length - 1 - step if b else step for b in backwards]
        parts = [
            Slot(f"scan{i}", x.select(a, p))
            for i, (x, a, p) in enumerate(zip(scanned, axes, places, strict=True))
        ]
        results = call.body("body", dict(zip(names, [*state, *parts], strict=True)))
        state = results[: len(state)]
        scans.append(results[len(state) :])
    made = _stacked(call, scans)
    out_axes = call.attr("scan_output_axes", [0] * len(made))
    reverse = call.attr("scan_output_directions", [0] * len(made))
    made = [m.flip(0) if r else m for m, r in zip(made, reverse, strict=True)]
    return (*state, *(m.movedim(0, a) for m, a in zip(made, out_axes, strict=True)))


def _scan_8(call: Call, lengths: Any, *inputs: Any) -> tuple[Any, ...]:
    """Version 8 has a batch axis in front and the sequences' lengths, which must be absent."""
    if lengths is not None:
        raise UnsupportedModelError("Scan with a length for each sequence")
    count = call.attr("num_scan_inputs")
    tensors = [call.tensor(s) for s in inputs]
    names = call.body_inputs("body")
    rows = []
    for b in range(tensors[0].shape[0]):
        state: list[Any] = [Slot("state", t[b]) for t in tensors[:-count]]
        scanned = [t[b] for t in tensors[-count:]]
        scans = []
        for step in range(scanned[0].shape[0]):
            given = [*state, *(Slot("scan", x[step]) for x in scanned)]
            results = call.body("body", dict(zip(names, given, strict=True)))
            state = results[: len(state)]
            scans.append(results[len(state) :])
        rows.append([*(call.tensor(s) for s in state), *_stacked(call, scans)])
    return tuple(torch.stack(column) for column in zip(*rows, strict=True))
