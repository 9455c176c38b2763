"""What each network is trained on, how long, and what judges it: four lessons, each a value.

A lesson's data are functions of a seed: `epoch(seed)` gives the inputs and labels of one epoch,
`calibration` unlabelled inputs, `test` inputs with labels. No sample stands in two of the three.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from torch import nn

from benchmarks.trained import digits, shapes, text
from benchmarks.trained.networks.gpt import GPT
from benchmarks.trained.networks.mobilenet import MobileNetV2
from benchmarks.trained.networks.repvgg import RepVGG
from benchmarks.trained.networks.vit import ViT

CALIBRATION, TEST = 512, 1024
CALIBRATION_SEED, TEST_SEED = 1, 2  # an epoch's seed is a thousand at least

Pair = tuple[torch.Tensor, torch.Tensor]


class Kind(Enum):
    """What a network reads."""

    IMAGE = "image"
    TEXT = "text"


@dataclass(frozen=True)
class Lesson:
    """A network and its data; `rate` is the learning rate at its highest, `decay` the weights'."""

    name: str
    kind: Kind
    build: Callable[[], nn.Module]
    epoch: Callable[[int], Pair]
    calibration: Callable[[], torch.Tensor]
    test: Callable[[], Pair]
    epochs: int
    batch: int
    rate: float
    decay: float = 0.01

    def logits(self, module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        """Return what training judges: the logits of every label that an epoch gives."""
        found: torch.Tensor = module.everywhere(inputs) if isinstance(module, GPT) else module(inputs)
        return found


def _shapes(name: str, build: Callable[[], nn.Module], count: int, epochs: int, rate: float) -> Lesson:
    return Lesson(
        name,
        Kind.IMAGE,
        build,
        epoch=lambda seed: shapes.draw(count, seed),
        calibration=lambda: shapes.draw(CALIBRATION, CALIBRATION_SEED)[0],
        test=lambda: shapes.draw(TEST, TEST_SEED),
        epochs=epochs,
        batch=64,
        rate=rate,
    )


def _text_test() -> Pair:
    windows, following = text.windows(text.Part.TEST, TEST, TEST_SEED)
    return windows, following[:, -1]


LESSONS = (
    _shapes("repvgg", lambda: RepVGG(3, len(shapes.CLASSES)), 3000, epochs=8, rate=3e-3),
    _shapes("mobilenet_v2", lambda: MobileNetV2(3, len(shapes.CLASSES)), 3000, epochs=8, rate=4e-3),
    Lesson(
        "vit",
        Kind.IMAGE,
        lambda: ViT(1, digits.CLASSES),
        epoch=digits.epoch,
        calibration=lambda: digits.part(digits.Part.CALIBRATION, CALIBRATION_SEED)[0],
        test=lambda: digits.part(digits.Part.TEST, TEST_SEED),
        epochs=20,
        batch=32,
        rate=1e-3,
    ),
    Lesson(
        "gpt",
        Kind.TEXT,
        GPT,
        epoch=lambda seed: text.windows(text.Part.TRAIN, 3200, seed),
        calibration=lambda: text.windows(text.Part.CALIBRATION, CALIBRATION, CALIBRATION_SEED)[0],
        test=_text_test,
        epochs=8,
        batch=32,
        rate=3e-3,
    ),
)
BY_NAME = {lesson.name: lesson for lesson in LESSONS}
