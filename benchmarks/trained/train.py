"""Train the small networks that the search is judged on: AdamW, one cycle of the learning rate, by a seed.

    rate(t) = highest · t / 0.2                            for t, the share of all steps, below 0.2
    rate(t) = highest · (1 + cos(π (t - 0.2) / 0.8)) / 2   after that

Each epoch draws its data by a seed of its own, so that a training cut short goes on from the checkpoint
of its last epoch and ends with the same weights. One thread. Pictures stay channels first: with channels
last, the backward pass of torch 2.13's convolutions corrupts the heap on a processor without AVX-512.

    python -m benchmarks.trained.train [NAME ...] [--out DIR] [--seed N]

Weights lie in DIR afterwards and are never committed.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.trained.lessons import BY_NAME, Lesson
from benchmarks.trained.states import FIRST_SEED, State, checkpoint_path, identity, read, state_path, write

RISE = 0.2  # the share of all steps in which the learning rate rises
STEEPEST = 1.0  # a gradient longer than this is shortened
FOLDER = Path("out/trained")

Tell = Callable[[str], None]


def train(lesson: Lesson, folder: Path, seed: int = 0, tell: Tell = lambda message: None) -> State:
    """Train a lesson's network, or go on where it was cut short, or read it where it is done."""
    name = identity(lesson, seed)
    done = read(state_path(lesson, folder), name)
    if done is None:
        module, losses = _learned(lesson, folder, name, seed, tell)
        accuracy = accuracy_of(module, *lesson.test())
        done = {"weights": module.state_dict(), "losses": losses, "accuracy": accuracy}
        write(state_path(lesson, folder), name, **done)
        checkpoint_path(lesson, folder).unlink(missing_ok=True)
    return State(done["weights"], tuple(done["losses"]), float(done["accuracy"]))


def accuracy_of(module: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of inputs whose likeliest class is the label."""
    module.eval()
    with torch.no_grad():
        found = torch.cat([module(part).argmax(1) for part in torch.split(inputs, 64)])
    return float((found == labels).double().mean())


def _learned(lesson: Lesson, folder: Path, name: str, seed: int, tell: Tell) -> tuple[nn.Module, list[float]]:
    torch.manual_seed(seed)
    module = lesson.build()
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=lesson.decay)
    losses = _resumed(module, optimizer, read(checkpoint_path(lesson, folder), name))
    for epoch in range(len(losses), lesson.epochs):
        start = time.perf_counter()
        losses.append(_epoch(lesson, module, optimizer, epoch))
        write(
            checkpoint_path(lesson, folder),
            name,
            weights=module.state_dict(),
            optimizer=optimizer.state_dict(),
            losses=losses,
        )
        taken = f"{time.perf_counter() - start:.0f} s"
        tell(f"{lesson.name}: epoch {epoch + 1} of {lesson.epochs}, loss {losses[-1]:.3f}, {taken}")
    return module, losses


def _resumed(
    module: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: dict[str, Any] | None
) -> list[float]:
    """Put a checkpoint back, where there is one; returns the losses of the epochs that are done."""
    if checkpoint is None:
        return []
    module.load_state_dict(checkpoint["weights"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    return list(checkpoint["losses"])


def _epoch(lesson: Lesson, module: nn.Module, optimizer: torch.optim.Optimizer, epoch: int) -> float:
    module.train()
    inputs, labels = lesson.epoch(FIRST_SEED + epoch)
    batches = list(zip(*(torch.split(t, lesson.batch) for t in (inputs, labels)), strict=True))
    total = 0.0
    for index, (x, y) in enumerate(batches):
        share = (epoch + (index + 0.5) / len(batches)) / lesson.epochs
        for group in optimizer.param_groups:
            group["lr"] = lesson.rate * _rate(share)
        loss = cross_entropy(lesson.logits(module, x).flatten(0, -2), y.flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(module.parameters(), STEEPEST)
        optimizer.step()
        total += float(loss.detach())
    return total / len(batches)


def _rate(share: float) -> float:
    """Return the learning rate over its highest, at a share of all steps."""
    if share < RISE:
        return share / RISE
    return (1 + math.cos(math.pi * (share - RISE) / (1 - RISE))) / 2


def main() -> None:
    """Train what is named, all by default, and print the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"{', '.join(BY_NAME)}; all by default")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BY_NAME):
        parser.error(f"no such network: {', '.join(sorted(unknown))}; there are {', '.join(BY_NAME)}")
    torch.set_num_threads(1)
    for name in arguments.names or BY_NAME:
        state = train(BY_NAME[name], arguments.out, arguments.seed, lambda m: print(m, file=sys.stderr))
        print(f"{name}: accuracy {state.accuracy:.3f} on the test set", flush=True)


if __name__ == "__main__":
    main()
