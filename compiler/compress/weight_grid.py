r"""The grid a target's quantizer puts weights on: symmetric, one scale a channel or a group of inputs.

    :math:`s = \max |w| / q, \qquad \hat w = s \cdot \mathrm{clamp}(\mathrm{round}(w / s), -q, q), \qquad
    q = 2^{b-1} - 1`

Weights on the grid stay where they are when the quantizer reads them again, as long as one of each
channel or group is at +-q: then the quantizer finds the same scale. Who changes weights (GPTQ, AWQ)
therefore leaves the largest of each at the end of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from compiler.errors import UsageError

LEAST_SCALE = 2.0**-24  # what a row of zeros gets


@dataclass(frozen=True)
class Grid:
    """`bits` a weight; `group` inputs share a scale, all of a row where it is None.

    Scales are rounded to what `scales_dtype` holds, to which kernels may round them anyway.
    """

    bits: int = 8
    group: int | None = None
    scales_dtype: torch.dtype = torch.float32

    @property
    def top(self) -> int:
        """The largest code."""
        return int(2 ** (self.bits - 1) - 1)

    def groups(self, width: int) -> int:
        """Return the number of groups of a row; raises UsageError where they do not fill it."""
        group = self.group or width
        if width % group:
            raise UsageError(f"groups of {group} inputs do not fill a row of {width}: give a divisor")
        return width // group

    def scales(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the scale of each weight, [out, in], in the weights' own dtype."""
        count = self.groups(rows.shape[1])
        peak = rows.reshape(len(rows), count, -1).abs().amax(2, keepdim=True)
        scale = (peak / self.top).clamp_min(LEAST_SCALE).to(self.scales_dtype).to(peak.dtype)
        return scale.expand(-1, -1, rows.shape[1] // count).reshape(rows.shape)

    def peaks(self, rows: torch.Tensor) -> torch.Tensor:
        """Return which weight of each row and group is its largest, a mask [out, in]."""
        parts = rows.reshape(len(rows), self.groups(rows.shape[1]), -1).abs()
        mask = torch.zeros_like(parts, dtype=torch.bool)
        mask.scatter_(2, parts.argmax(2, keepdim=True), True)
        return mask.reshape(rows.shape)

    def codes(self, rows: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Return the nearest code of each weight, as floats."""
        return (rows / scales).round().clamp(-self.top, self.top)

    def nearest(self, rows: torch.Tensor) -> torch.Tensor:
        """Return each weight rounded to the nearest on the grid."""
        scales = self.scales(rows)
        return self.codes(rows, scales) * scales
