"""What a farm and its workers tell each other: small values, so that none is ever half sent for long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from devices.farm.job import Job, Opener

MOST_TEXT = 4000


@dataclass(frozen=True)
class Assignment:
    """What a worker is told first: its device, and where things are."""

    device: str
    opener: Opener
    database: str
    cache: Path | None
    leases: Path | None
    wait_s: float | None
    beat_s: float
    command: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """A job to do; a measurement finished after `since_ns` is its result already."""

    job: Job
    since_ns: int


@dataclass(frozen=True)
class Opened:
    """The device is there, and may be in use."""

    identity: str
    kind: str
    fingerprint: Mapping[str, str]


@dataclass(frozen=True)
class Take:
    """The farm has this device by no other way: the worker is to take its lease."""


@dataclass(frozen=True)
class Ready:
    """The device is ours."""


@dataclass(frozen=True)
class Beat:
    """The worker lives; `text` says what it does, "" where nothing new."""

    text: str = ""


@dataclass(frozen=True)
class Done:
    """The task's measurement, by its row in the database."""

    row: int


@dataclass(frozen=True)
class Failed:
    """The task, or the start, came to nothing.

    `again` says that another try may go better, `answers` that the device itself still answers.
    """

    kind: str
    text: str
    again: bool
    answers: bool


Message = Opened | Ready | Beat | Done | Failed


def shortened(text: str) -> str:
    """Return a text that is short enough to be sent at once."""
    return text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT // 2]} ... {text[-MOST_TEXT // 2 :]}"
