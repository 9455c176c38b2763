"""Small networks trained on real data, for what a search makes of them: four families, one core, minutes.

`python -m benchmarks.trained.train --out out/trained` trains them once, `models(Path("out/trained"))`
reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from benchmarks.trained.lessons import LESSONS, Kind, Lesson
from benchmarks.trained.states import read_state

CALIBRATION_BATCH = 16


@dataclass(frozen=True)
class Trained:
    """A trained network in eval mode with its data.

    `calibration` are unlabelled batches, each the inputs of a call; `test_inputs` [N, ...] and
    `test_labels` int64[N] judge what was made of the network, and nothing else may look at them.
    """

    name: str
    kind: Kind
    module: nn.Module
    example_inputs: tuple[torch.Tensor, ...]
    calibration: tuple[tuple[torch.Tensor, ...], ...]
    test_inputs: torch.Tensor
    test_labels: torch.Tensor


def models(folder: Path) -> Mapping[str, Trained]:
    """Return the trained networks of a folder by name.

    Raises UsageError where one is not there, or was trained otherwise than its lesson now says.
    """
    return {lesson.name: trained(lesson, folder) for lesson in LESSONS}


def trained(lesson: Lesson, folder: Path) -> Trained:
    """Return one network with its data; raises UsageError as `models` does."""
    module = lesson.build()
    module.load_state_dict(read_state(lesson, folder).weights)
    pool = lesson.calibration()
    inputs, labels = lesson.test()
    return Trained(
        name=lesson.name,
        kind=lesson.kind,
        module=module.eval(),
        example_inputs=(inputs[:1],),
        calibration=tuple((part,) for part in torch.split(pool, CALIBRATION_BATCH)),
        test_inputs=inputs,
        test_labels=labels,
    )
