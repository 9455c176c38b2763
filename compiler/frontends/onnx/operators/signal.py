"""Fourier transforms and windows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compiler.frontends.onnx.module import Call
from compiler.frontends.onnx.operators.shapes import scalar
from compiler.frontends.onnx.registry import op


@op("DFT", slots=True)
def dft(call: Call, x: Any, length: Any = None, axis: Any = None) -> Tensor:
    """Transform along an axis; the last axis holds one real part, or real and imaginary parts."""
    x = call.tensor(x)
    count = scalar(length, "the length of DFT must be known")
    at = scalar(axis, "the axis of DFT must be known", call.attr("axis", 1 if call.version < 20 else -2))
    at %= x.dim()
    one_sided, inverse = bool(call.attr("onesided", 0)), bool(call.attr("inverse", 0))
    whole = 2 * (x.shape[at] - 1) if one_sided and inverse else x.shape[at]
    count = whole if count is None else int(count)
    if inverse and one_sided:
        result: Tensor = torch.fft.irfft(torch.view_as_complex(x.contiguous()), count, at).unsqueeze(-1)
        return result
    if x.shape[-1] == 1 and not inverse:
        run = torch.fft.rfft if one_sided else torch.fft.fft
        return torch.view_as_real(run(x.squeeze(-1), count, at))
    pairs = x if x.shape[-1] == 2 else torch.cat([x, torch.zeros_like(x)], -1)
    values = torch.view_as_complex(pairs.contiguous())
    made = torch.fft.ifft(values, count, at) if inverse else torch.fft.fft(values, count, at)
    return torch.view_as_real(made.narrow(at, 0, count // 2 + 1) if one_sided else made)


@op("MelWeightMatrix", host=(0, 1, 2, 3, 4))
def mel_weight_matrix(call: Call, *sizes: Any) -> Any:
    """Ask for constants: the matrix is then made ahead of time, by ONNX's reference."""
    return NotImplemented


@op("STFT", slots=True)
def stft(call: Call, signal: Any, step: Any, window: Any = None, length: Any = None) -> Tensor:
    """Transform windows of a signal, [batch, time, 1 or 2]."""
    x, why = call.tensor(signal), "the frames of STFT must be known"
    hop = int(scalar(step, why))
    weights = None if window is None else call.tensor(window)
    count = int(scalar(length, why, None if weights is None else weights.shape[0]))
    frames = x.unfold(1, count, hop).movedim(-1, 2)  # [batch, frames, count, parts]
    if weights is not None:
        frames = frames * weights[:, None]
    if x.shape[-1] == 1:
        run = torch.fft.rfft if call.attr("onesided", 1) else torch.fft.fft
        return torch.view_as_real(run(frames.squeeze(-1), dim=2))
    return torch.view_as_real(torch.fft.fft(torch.view_as_complex(frames.contiguous()), dim=2))
