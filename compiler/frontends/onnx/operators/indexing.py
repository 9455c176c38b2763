"""Operators that gather from and scatter to places."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compiler.errors import UnsupportedModelError
from compiler.frontends.onnx.dtypes import Array
from compiler.frontends.onnx.module import Call
from compiler.frontends.onnx.operators.shapes import ints
from compiler.frontends.onnx.registry import op


@op("Gather", slots=True)
def gather(call: Call, x: Any, indices: Any) -> Tensor:
    """Take slices along an axis; negative places count from the end."""
    axis = call.attr("axis", 0)
    if indices.array is not None and not indices.symbolic and indices.array.ndim == 0:
        return call.tensor(x).select(axis, int(indices.array))  # type: ignore[no-any-return]
    x, places = call.tensor(x), call.tensor(indices).to(torch.int64)
    axis %= x.dim()
    if axis == 0 and x.dim() == 2 and x.is_floating_point() and indices.array is None:
        return torch.nn.functional.embedding(_positive(places, x.shape[0]), x)
    flat = x.index_select(axis, _positive(places, x.shape[axis]).reshape(-1))
    result: Tensor = flat.reshape(*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])
    return result


def _positive(places: Tensor, size: Any) -> Tensor:
    return torch.where(places < 0, places + size, places)


@op("GatherElements")
def gather_elements(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """Take one element for each place of `indices`."""
    axis = call.attr("axis", 0)
    return torch.gather(x, axis, _positive(indices.to(torch.int64), x.shape[axis]))


@op("GatherND")
def gather_nd(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """Take slices at places of several axes, behind `batch_dims` axes in common."""
    batch, depth = call.attr("batch_dims", 0), indices.shape[-1]
    lead = x.shape[:batch]
    flat = x.reshape(math.prod(lead), *x.shape[batch:])
    places = indices.reshape(math.prod(lead), -1, depth)
    rows = torch.arange(flat.shape[0])[:, None].expand(places.shape[:2])
    index = (rows, *(_positive(places[..., i], flat.shape[i + 1]) for i in range(depth)))
    found = flat[index]
    return found.reshape(*lead, *indices.shape[batch:-1], *x.shape[batch + depth :])


_REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@op("ScatterElements", "Scatter")
def scatter_elements(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Write one element at each place of `indices`."""
    axis, how = call.attr("axis", 0), call.attr("reduction", "none")
    places = _positive(indices.to(torch.int64), x.shape[axis])
    if how == "none":
        return torch.scatter(x, axis, places, updates)
    return torch.scatter_reduce(x, axis, places, updates, _REDUCE[how])


@op("ScatterND")
def scatter_nd(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Write slices at places of several axes."""
    depth = indices.shape[-1]
    sizes = x.shape[:depth]
    steps = [math.prod(sizes[i + 1 :]) for i in range(depth)]
    places = sum(_positive(indices[..., i], sizes[i]) * steps[i] for i in range(depth))
    assert isinstance(places, Tensor)
    rest = x.shape[depth:]
    flat, new = x.reshape(math.prod(sizes), -1), updates.reshape(places.numel(), -1)
    index = places.reshape(-1, 1).expand(new.shape)
    how = call.attr("reduction", "none")
    if how == "none":
        written = torch.scatter(flat, 0, index, new)
    else:
        written = torch.scatter_reduce(flat, 0, index, new, _REDUCE[how])
    return written.reshape(*sizes, *rest)


@op("TensorScatter", slots=True)
def tensor_scatter(call: Call, past: Any, update: Any, write: Any = None) -> Tensor:
    """Write a run of new entries in a cache, from each row's own place on."""
    past, update = call.tensor(past), call.tensor(update)
    axis = call.attr("axis", -2) % past.dim()
    start = torch.zeros(past.shape[0], dtype=torch.int64) if write is None else call.tensor(write)
    places = start.reshape(-1, *(1,) * (past.dim() - 1)) + _along(update, axis)
    if call.attr("mode", "linear") == "circular":
        places = places % past.shape[axis]
    return torch.scatter(past, axis, places.expand(update.shape), update)


def _along(x: Tensor, axis: int) -> Tensor:
    return torch.arange(x.shape[axis]).reshape(-1, *(1,) * (x.dim() - 1 - axis))


@op("OneHot", slots=True)
def one_hot(call: Call, indices: Any, depth: Any, values: Any) -> Tensor:
    """Set one place along a new axis; places out of range set none."""
    size = int(np.asarray(depth.as_array("the depth of OneHot must be known")).reshape(-1)[0])
    places, pair = call.tensor(indices), call.tensor(values)
    axis = call.attr("axis", -1) % (places.dim() + 1)
    places = places.to(torch.int64).unsqueeze(axis)
    places = torch.where(places < 0, places + size, places)
    line = torch.arange(size).reshape(-1, *(1,) * (places.dim() - 1 - axis))
    return torch.where(places == line, pair[1], pair[0])


@op("Compress", host=(1,))
def compress(call: Call, x: Tensor, condition: Array) -> Tensor:
    """Keep the slices that a known condition holds for."""
    axis = call.attr("axis")
    places = torch.from_numpy(np.flatnonzero(np.asarray(condition)))
    return x.reshape(-1).index_select(0, places) if axis is None else x.index_select(axis, places)


@op("NonZero", "Unique", "NonMaxSuppression")
def data_dependent(call: Call, *inputs: Any) -> Tensor:
    """Refuse: how large the result is depends on the data."""
    raise UnsupportedModelError("the size of its result depends on data; run it after the compiled part")


@op("ArrayFeatureExtractor", host=(1,), domain="ai.onnx.ml")
def array_feature_extractor(call: Call, x: Tensor, places: Array) -> Tensor:
    """Select columns."""
    return x.index_select(-1, torch.tensor(ints(places)))


@op("Binarizer", domain="ai.onnx.ml")
def binarizer(call: Call, x: Tensor) -> Tensor:
    """Return 1 above a threshold, else 0."""
    result: Tensor = (x > call.attr("threshold", 0.0)).to(x.dtype)
    return result
