"""What a training leaves behind, as files: a state when it is done, a checkpoint while it runs.

Both name the lesson they belong to, as text and as the digest of its first batch, so that a network or
a data set that has changed since is trained anew rather than mistaken for the one at hand.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.trained.lessons import Lesson
from compiler.errors import UsageError

FIRST_SEED = 1000  # an epoch's data: this, and one more each epoch

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class State:
    """A trained network: its weights, the loss of each epoch, its accuracy on the test set."""

    weights: Tensors
    losses: tuple[float, ...]
    accuracy: float


def identity(lesson: Lesson, seed: int) -> str:
    """Return a digest of all that a training depends on: the network, the data, the settings, the seed.

    Pictures enter by their moments: their last bits differ from one processor to another.
    """
    inputs, labels = lesson.epoch(FIRST_SEED)
    module = lesson.build()
    shapes = [(name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()]
    settings = (seed, lesson.epochs, lesson.batch, lesson.rate, lesson.decay)
    values = inputs.double()
    moments = f"{tuple(values.shape)} {values.mean():.4f} {values.std():.4f}"
    text = f"{settings} {module} {shapes} {moments} {labels.tolist()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def state_path(lesson: Lesson, folder: Path) -> Path:
    """Return the file of a finished training."""
    return folder / f"{lesson.name}.pt"


def checkpoint_path(lesson: Lesson, folder: Path) -> Path:
    """Return the file of a training under way."""
    return folder / f"{lesson.name}.partial.pt"


def read_state(lesson: Lesson, folder: Path, seed: int = 0) -> State:
    """Return a finished training; raises UsageError where there is none of this very lesson."""
    found = read(state_path(lesson, folder), identity(lesson, seed))
    if found is None:
        raise UsageError(
            f"{folder} holds no {lesson.name} trained as its lesson says: run "
            f"python -m benchmarks.trained.train {lesson.name} --out {folder}"
        )
    return State(found["weights"], tuple(found["losses"]), float(found["accuracy"]))


def read(path: Path, identity: str) -> dict[str, Any] | None:
    """Return a file's document, None where it is not there or belongs to another training."""
    if not path.is_file():
        return None
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found if found["identity"] == identity else None


def write(path: Path, identity: str, **document: Any) -> None:
    """Write a document whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".writing")
    torch.save({"identity": identity, **document}, partial)
    os.replace(partial, path)
