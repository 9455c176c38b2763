r"""Labels as a gate: a variant may lose at most so much accuracy on labelled samples.

Labels never steer the search, and the labelled samples are none of its calibration samples: a
variant that was chosen on them would look better than it is. On N samples let b be the number that
only the reference gets right and c the number that only the variant does. The drop in accuracy is
:math:`(b - c) / N`. Its 95% interval is that of Agresti and Min ("Simple improved confidence
intervals for comparing matched proportions", Statistics in Medicine 24, 2005): with half a sample
added to each cell of the table, :math:`b' = b + 1/2`, :math:`c' = c + 1/2`, :math:`N' = N + 2`,

    :math:`\frac{b' - c'}{N'} \pm 1.96\, \frac{1}{N'} \sqrt{b' + c' - (b' - c')^2 / N'},`

which has a width even where no answer changed: twenty samples prove little. A variant passes if the
upper end is within what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from compiler.errors import UsageError

_Z = 1.959963984540054

Call = Sequence[torch.Tensor]  # the flat inputs of one call


@dataclass(frozen=True)
class LabelGate:
    """Labelled calls and the largest drop in accuracy that is allowed, as a share (0.01 is one point).

    `inputs` holds calls of `batch` samples each, `labels` one class for each sample. Raises UsageError
    where their numbers differ, there are none, or the drop is not between 0 and 1.
    """

    inputs: tuple[Call, ...]
    labels: NDArray[np.int64]
    most_drop: float
    batch: int = 1

    def __post_init__(self) -> None:
        """Check the numbers."""
        samples = len(self.inputs) * self.batch
        if self.labels.ndim != 1 or len(self.labels) != samples:
            raise UsageError(
                f"there are {samples} labelled samples and {len(self.labels)} labels (of shape "
                f"{list(self.labels.shape)}); give one class number for each sample"
            )
        if not samples:
            raise UsageError("the labelled data holds no sample; give at least one, better some hundreds")
        if not 0 <= self.most_drop <= 1:
            raise UsageError(f"the accuracy drop allowed is {self.most_drop}; give a share between 0 and 1")

    def judge(self, reference: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> Verdict:
        """Compare the logits [batch, C] of each call of two models; raises UsageError for other outputs."""
        own, other = (_classes(outputs) for outputs in (reference, found))
        least, most = int(self.labels.min()), int(self.labels.max())
        classes = reference[0].shape[1]
        if least < 0 or most >= classes:
            raise UsageError(
                f"labels run from {least} to {most}; the model has the classes 0 to {classes - 1}"
            )
        return verdict(own == self.labels, other == self.labels, self.most_drop)


@dataclass(frozen=True)
class Verdict:
    """The accuracy of the reference and of a variant, and the drop between them with its 95% interval."""

    reference: float
    found: float
    drop: float
    low: float
    high: float
    most_drop: float
    samples: int

    @property
    def passed(self) -> bool:
        """Whether the upper end of the drop is within what is allowed."""
        return self.high <= self.most_drop

    @property
    def text(self) -> str:
        """The verdict in words, with what would decide it where the samples are too few."""
        figures = (
            f"accuracy {self.reference:.4f} of the reference, {self.found:.4f} of the variant on "
            f"{self.samples} labelled samples: a drop of {self.drop:.4f} (95%: {self.low:.4f} to "
            f"{self.high:.4f}), {self.most_drop:.4f} allowed"
        )
        if self.passed or self.low > self.most_drop:
            return figures
        return f"{figures}; the interval holds what is allowed, so more labelled samples would decide it"


def verdict(reference: NDArray[np.bool_], found: NDArray[np.bool_], most_drop: float) -> Verdict:
    """Return the drop between two vectors of right answers on the same samples."""
    n = len(reference)
    lost, won = int((reference & ~found).sum()), int((found & ~reference).sum())
    b, c, m = lost + 0.5, won + 0.5, n + 2
    middle, half = (b - c) / m, _Z * math.sqrt(b + c - (b - c) ** 2 / m) / m
    drop = (lost - won) / n
    low, high = max(-1.0, middle - half), min(1.0, middle + half)
    return Verdict(float(reference.mean()), float(found.mean()), drop, low, high, most_drop, n)


def _classes(outputs: Sequence[torch.Tensor]) -> NDArray[np.int64]:
    if any(t.dim() != 2 for t in outputs):
        shape = next(list(t.shape) for t in outputs if t.dim() != 2)
        raise UsageError(f"labels judge class logits of shape [N, C]; the model gives {shape}")
    classes: NDArray[np.int64] = np.concatenate([t.argmax(1).numpy() for t in outputs])
    return classes
