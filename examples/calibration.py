"""Synthetic calibration images, for the demo: replace them with your own data.

These are NOT photographs. Each image is seeded noise with the 1/f amplitude spectrum that natural
images have on average (Field, "Relations between the statistics of natural images and the response
properties of cortical cells", JOSA A 4, 1987), with correlated colour channels, normalised to zero
mean and unit deviation as classifiers expect. They exercise a network's value ranges without any
download; what a search finds on them says nothing about accuracy on real pictures.

    edgewright search timm:mobilenetv2_100 --latency-budget 0.7x --calibration examples/calibration.py:batches

Your own file needs the same form: a list of input tensors, or a function that returns one.
"""

import torch

COUNT = 128
SIZE = 224
SEED = 0
COLOUR = 0.8  # the share of the colour channels' variance that they have in common


def batches() -> list[torch.Tensor]:
    """Return `COUNT` float32 images of shape [1, 3, SIZE, SIZE]."""
    generator = torch.Generator().manual_seed(SEED)
    return [image(generator) for _ in range(COUNT)]


def image(generator: torch.Generator) -> torch.Tensor:
    """Return one image: a shared 1/f field mixed with one of each channel's own."""
    shared, own = field(1, generator), field(3, generator)
    mixed = COLOUR**0.5 * shared + (1 - COLOUR) ** 0.5 * own
    return mixed[None]


def field(channels: int, generator: torch.Generator) -> torch.Tensor:
    """Return noise of shape [channels, SIZE, SIZE] with amplitude 1/f, zero mean, unit deviation."""
    y, x = torch.fft.fftfreq(SIZE)[:, None], torch.fft.rfftfreq(SIZE)[None, :]
    frequency = (x.square() + y.square()).sqrt()
    amplitude = torch.where(frequency > 0, 1 / frequency.clamp_min(1 / SIZE), 0.0)
    white = torch.fft.rfft2(torch.randn(channels, SIZE, SIZE, generator=generator))
    values = torch.fft.irfft2(white * amplitude, s=(SIZE, SIZE))
    return (values - values.mean((1, 2), keepdim=True)) / values.std((1, 2), keepdim=True)
