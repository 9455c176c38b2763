"""scikit-learn's handwritten digits, enlarged to 32 x 32, shifted and made noisy.

The 1797 pictures of 8 x 8 (Alpaydin and Kaynak, 1998; they come with scikit-learn) are split once into
900 to train on, 400 to calibrate with and 497 to judge by, and enlarged fourfold. Each use of a picture
for training shifts it by up to 4 pixels and adds noise anew; those to calibrate with and to judge by are
shifted and made noisy once, by the seed.
"""

from __future__ import annotations

from enum import Enum
from functools import cache

import torch
from torch.nn.functional import interpolate, pad

SIZE, CLASSES = 32, 10
SPLIT_SEED = 0
MOST_SHIFT = 4
NOISE = 0.3  # standard deviation; a pen stroke is 1

Tensor = torch.Tensor


class Part(Enum):
    """Which of the pictures: no picture is in two parts."""

    TRAIN = slice(0, 900)
    CALIBRATION = slice(900, 1300)
    TEST = slice(1300, None)


def part(which: Part, seed: int) -> tuple[Tensor, Tensor]:
    """Return pictures float32[n, 1, 32, 32], shifted and noisy by a seed, and their digits int64[n]."""
    pictures, digits = _all()
    g = torch.Generator().manual_seed(seed)
    return _disturbed(pictures[which.value], g), digits[which.value]


def epoch(seed: int) -> tuple[Tensor, Tensor]:
    """Return the pictures to train on in an order and with shifts and noise of their own."""
    pictures, digits = part(Part.TRAIN, seed)
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))
    return pictures[order], digits[order]


def _disturbed(pictures: Tensor, g: torch.Generator) -> Tensor:
    moves = torch.randint(2 * MOST_SHIFT + 1, (len(pictures), 2), generator=g).tolist()
    wide = pad(pictures, [MOST_SHIFT] * 4)
    shifted = torch.stack([p[:, y : y + SIZE, x : x + SIZE] for p, (y, x) in zip(wide, moves, strict=True)])
    return shifted + NOISE * torch.randn(shifted.shape, generator=g)


@cache
def _all() -> tuple[Tensor, Tensor]:
    """Return all pictures, enlarged, in the order of the split."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(SPLIT_SEED))
    small = torch.from_numpy(found.images).float()[order, None] / 16
    large = interpolate(small, (SIZE, SIZE), mode="bilinear", align_corners=False)
    return large, torch.from_numpy(found.target).long()[order]
