"""Does what we built compute what the user's model computes?

The reference is the original model in float64. A runtime in float32 cannot hit it, and neither can
the original model in float32; how far that one misses says how far an honest runtime may miss. With
y the float64 result, e = max |float32 eager - y| and s = max |y|, an output passes when

    max |runtime - y|  <=  max(1e-5 s,  min(16 e, 1e-2 s))

The first term lets through the rounding of well-conditioned models (XNNPACK's exp and tanh differ
from torch's by units in the last place), the second scales it with the model's own conditioning,
and the cap keeps an ill-conditioned model from passing whatever it returns. Integer and boolean
outputs are compared by the share of elements that differ, with the same rule at s = 1 and no
first term.

A lossy plan is judged against the compressed graph that was lowered, not against the original
model: int8 kernels round ties their own way, so that the error allowed is the error which the
compression itself makes, in root mean square, and at most a tenth of the output. Twice that where
kernels round activations by ranges of their own (dynamic int8): the graph rounds weights alone, or
activations by coarser ranges, and the two errors are of one size. In float16 kernels may sum in half where
the graph sums in float32: a hundredth of the output is let through. The distance to the original is
reported, never judged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

FLOOR = 1e-5
CONDITION = 16.0
CAP = 1e-2
LOSSY_CAP = 0.1
HALF = 1e-2
DYNAMIC = 2.0  # times the compression's own error


@dataclass(frozen=True)
class Comparison:
    """One output on one set of inputs against its reference.

    Errors are absolute, in the output's own unit; `relative_error` is over the largest magnitude
    of the reference; `snr_db` is 20 log10 of signal over error in root mean square (None where
    there is no error). `tolerance` is None where the distance is only reported.
    """

    inputs: str
    output: int
    reference: str
    max_abs_error: float
    relative_error: float
    rms_error: float
    snr_db: float | None
    tolerance: float | None
    own_error: float | None = None
    measure: str = "max_abs"

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; NaN is not."""
        error = self.rms_error if self.measure == "rms" else self.max_abs_error
        return self.tolerance is None or error <= self.tolerance

    def document(self) -> dict[str, Any]:
        """Return the comparison as JSON values; what is not finite becomes text."""
        plain = {
            key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }
        return {**plain, "passed": self.passed}


def judge(
    inputs: str,
    found: Sequence[Any],
    double: Sequence[Any],
    single: Sequence[Any],
    reference: str = "float64",
) -> list[Comparison]:
    """Compare each output with the float64 reference, with the float32 model's own error as scale."""
    result = []
    for index, (y, exact, own) in enumerate(_tensors(found, double, single)):
        if mismatch := _mismatch(y, exact):
            result.append(_infinite(inputs, index, f"{reference} ({mismatch})"))
            continue
        error, own_error = _distance(y, exact), _distance(own, exact)
        scale = _scale(exact)
        floor = FLOOR * scale if exact.is_floating_point() else 0.0
        tolerance = max(floor, min(CONDITION * own_error.maximum, CAP * scale))
        result.append(_comparison(inputs, index, reference, error, scale, tolerance, own_error.maximum))
    return result


def judge_lossy(
    inputs: str,
    found: Sequence[Any],
    compressed: Sequence[Any],
    original: Sequence[Any],
    dynamic: bool = False,
    half: bool = False,
) -> list[Comparison]:
    """Compare each output with the compressed graph, with the compression's own error as scale.

    `dynamic` tells that the runtime rounds activations by ranges of its own, `half` that some operation
    computes in float16.
    """
    allowed = DYNAMIC if dynamic else 1.0
    result = []
    for index, (y, exact, far) in enumerate(_tensors(found, compressed, original)):
        if mismatch := _mismatch(y, exact):
            result.append(_infinite(inputs, index, f"compressed graph ({mismatch})"))
            continue
        error, lossy, scale = _distance(y, exact), _distance(far, exact), _scale(exact)
        tolerance = max((HALF if half else FLOOR) * scale, min(allowed * lossy.rms, LOSSY_CAP * scale))
        own = lossy.rms
        result.append(_comparison(inputs, index, "compressed graph", error, scale, tolerance, own, "rms"))
    return result


def report(inputs: str, found: Sequence[Any], original: Sequence[Any]) -> list[Comparison]:
    """Return the distance of each output to the original, without judging it."""
    return [
        _comparison(inputs, index, "original model", _distance(y, exact), _scale(exact), None, None)
        for index, (y, exact, _) in enumerate(_tensors(found, original, original))
        if _mismatch(y, exact) is None
    ]


@dataclass(frozen=True)
class _Distance:
    maximum: float
    rms: float
    signal: float


def _tensors(*results: Sequence[Any]) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Pair up the outputs that are tensors; literals need no check."""
    kept = [[x for x in outputs if isinstance(x, torch.Tensor)] for outputs in results]
    first, second, third = kept
    return list(zip(first, second, third, strict=True))


def _mismatch(y: torch.Tensor, exact: torch.Tensor) -> str | None:
    """Say what makes two outputs incomparable: shape, or infinities and NaN in other places."""
    if y.shape != exact.shape:
        return f"shape {tuple(y.shape)} in place of {tuple(exact.shape)}"
    if not exact.is_floating_point():
        return None
    special = ~torch.isfinite(exact)
    if not torch.equal(special, ~torch.isfinite(y)):
        return "not finite in other places"
    same = torch.equal(torch.nan_to_num(exact[special]).sign(), torch.nan_to_num(y[special].double()).sign())
    return None if same else "infinite with another sign"


def _distance(y: torch.Tensor, exact: torch.Tensor) -> _Distance:
    if not exact.numel():
        return _Distance(0.0, 0.0, 0.0)
    if not exact.is_floating_point():
        share = float((y != exact).double().mean())
        return _Distance(share, share, 1.0)
    finite = torch.isfinite(exact)
    wide = exact[finite].double()
    if not wide.numel():
        return _Distance(0.0, 0.0, 0.0)
    difference = y[finite].double() - wide
    maximum = float(difference.abs().max())
    return _Distance(maximum, float(difference.square().mean().sqrt()), float(wide.square().mean().sqrt()))


def _scale(exact: torch.Tensor) -> float:
    if not exact.is_floating_point():
        return 1.0
    finite = exact[torch.isfinite(exact)]
    return float(finite.abs().max()) if finite.numel() else 0.0


def _comparison(
    inputs: str,
    index: int,
    reference: str,
    error: _Distance,
    scale: float,
    tolerance: float | None,
    own: float | None,
    measure: str = "max_abs",
) -> Comparison:
    relative = error.maximum / scale if scale else (0.0 if error.maximum == 0 else math.inf)
    snr = 20 * math.log10(error.signal / error.rms) if error.rms and error.signal else None
    return Comparison(
        inputs, index, reference, error.maximum, relative, error.rms, snr, tolerance, own, measure
    )


def _infinite(inputs: str, index: int, reference: str) -> Comparison:
    return Comparison(inputs, index, reference, math.inf, math.inf, math.inf, None, 0.0)
