"""Normalisations, softmax and its kin."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from compiler.errors import UnsupportedModelError
from compiler.frontends.onnx.module import Call
from compiler.frontends.onnx.registry import op


@op("BatchNormalization")
def batch_norm(
    call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor | tuple[Tensor, ...]:
    """Normalise by stored statistics; in training mode the graph also returns new ones."""
    trains = call.outputs > 1 if call.version < 14 else bool(call.attr("training_mode", 0))
    if trains:
        raise UnsupportedModelError("BatchNormalization in training mode normalises by the batch")
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, call.attr("epsilon", 1e-5))


@op("InstanceNormalization")
def instance_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Normalise each channel of each image."""
    return F.instance_norm(x, weight=scale, bias=bias, eps=call.attr("epsilon", 1e-5))


@op("GroupNormalization")
def group_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Normalise groups of channels; before version 21 scale and bias were one for each group."""
    groups = call.attr("num_groups")
    if call.version < 21:
        each = x.shape[1] // groups
        scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    return F.group_norm(x, groups, scale, bias, call.attr("epsilon", 1e-5))


@op("LayerNormalization")
def layer_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> object:
    """Normalise the axes from `axis` on."""
    axis = call.attr("axis", -1) % x.dim()
    eps = call.attr("epsilon", 1e-5)
    shape = list(x.shape[axis:])
    scale = scale.expand(shape)
    bias = None if bias is None else bias.expand(shape)
    if not call.wants(1) and not call.wants(2):
        return F.layer_norm(x, shape, scale, bias, eps)
    axes = list(range(axis, x.dim()))
    mean = x.mean(axes, keepdim=True)
    inverse = torch.rsqrt((x - mean).square().mean(axes, keepdim=True) + eps)
    return F.layer_norm(x, shape, scale, bias, eps), mean, inverse


@op("RMSNormalization")
def rms_norm(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    """Divide by the root of the mean square over the axes from `axis` on."""
    axis = call.attr("axis", -1) % x.dim()
    shape = list(x.shape[axis:])
    return F.rms_norm(x, shape, scale.expand(shape), call.attr("epsilon", 1e-5))


@op("LpNormalization")
def lp_norm(call: Call, x: Tensor) -> Tensor:
    """Divide by the L1 or L2 norm along an axis; zeros stay."""
    norm = torch.linalg.vector_norm(x, call.attr("p", 2), call.attr("axis", -1), keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


@op("MeanVarianceNormalization")
def mean_variance_norm(call: Call, x: Tensor) -> Tensor:
    """Take off the mean and divide by the standard deviation."""
    axes = call.attr("axes", [0, 2, 3])
    centred = x - x.mean(axes, keepdim=True)
    return centred / (torch.sqrt((x * x).mean(axes, keepdim=True) - x.mean(axes, keepdim=True) ** 2) + 1e-9)


@op("LRN")
def local_response_norm(call: Call, x: Tensor) -> Tensor:
    """Divide by a power of the mean square of neighbouring channels."""
    size = call.attr("size")
    left = (size - 1) // 2
    square = F.pad((x * x).flatten(2).transpose(1, 2), (left, size - 1 - left))
    total = square.unfold(2, size, 1).sum(-1).transpose(1, 2).reshape(x.shape)
    alpha, beta, k = call.attr("alpha", 1e-4), call.attr("beta", 0.75), call.attr("bias", 1.0)
    result: Tensor = x / (k + alpha / size * total) ** beta
    return result


@op("Softmax", "LogSoftmax", "Hardmax")
def softmax(call: Call, x: Tensor) -> Tensor:
    """Normalise exponentials along an axis; before version 13 over all axes from it on."""
    axis = call.attr("axis", -1 if call.version >= 13 else 1)
    if call.version >= 13:
        return _softmax(call.step.op, x, axis)
    axis = axis % x.dim() if x.dim() else 0
    flat = x.reshape(*x.shape[:axis], math.prod(x.shape[axis:]))
    return _softmax(call.step.op, flat, -1).reshape(x.shape)


def _softmax(name: str, x: Tensor, axis: int) -> Tensor:
    if name == "Hardmax":
        places = torch.argmax(x, axis, keepdim=True)
        return torch.zeros_like(x).scatter(axis, places, torch.ones_like(places, dtype=x.dtype))
    return F.softmax(x, axis) if name == "Softmax" else F.log_softmax(x, axis)
