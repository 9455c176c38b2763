"""Rounds of all candidates, interleaved, through the faults that a device has on the way.

A round that fails, because its runner died, hung or told nonsense, or because the device was away for
a moment, is an incident: it is recorded, the runner is ended, and after a pause of `PAUSES_S` it is
started and warmed up again for the same round. A candidate that has used up its retries is set aside
while the others go on to their end; a device that does not answer then ends the run at once. Whatever
happens, a finished round is in the database, and the same command goes on from there.

The first start of a runner is not tried again: a program that cannot be loaded will not be the next
time, and a device that is not there is told at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from compiler.device import Device
from compiler.errors import DeviceError
from compiler.records import Statistics
from devices.clock import Clock
from devices.database import MeasurementDatabase
from devices.series import OpenRunners, Series

RETRIES = 3
PAUSES_S = (1.0, 5.0, 15.0)  # before each retry; the last one before all later


@dataclass(frozen=True)
class Progress:
    """Something that happened: `event` is preflight, reused, resumed, ready, round, fault or finished.

    `detail` says more where there is more to say: what a check found, what failed.
    """

    label: str
    event: str
    rounds: int
    statistics: Statistics | None
    detail: str = ""


Report = Callable[[Progress], None]


@dataclass
class Run:
    """What the rounds of one run share, and what went wrong so far, by the key of the candidate."""

    runners: OpenRunners
    device: Device
    database: MeasurementDatabase
    report: Report
    clock: Clock
    retries: int = RETRIES
    faults: Counter[str] = field(default_factory=Counter)
    aside: dict[str, str] = field(default_factory=dict)


def start_runners(all_series: Sequence[Series], run: Run) -> None:
    """Start and warm up the runner of every series that has rounds to make."""
    for series in all_series:
        if not series.exhausted():
            run.runners.of(series)
            run.report(progress_of(series, "ready"))


def make_rounds(all_series: Sequence[Series], run: Run) -> Mapping[str, str]:
    """Make rounds until every series is narrow, exhausted or set aside.

    Return what went wrong with those that were set aside, by key. Raises DeviceError where none is left
    or the device does not answer, and UnstableMeasurementError where it is no longer fit.
    """
    while going := [s for s in all_series if s.header.key not in run.aside and not s.exhausted()]:
        if all(s.narrow() for s in going):
            break
        for series in _next_cycle(going):
            _make_round(series, run, alone=len(all_series) - len(run.aside) == 1)
    return run.aside


def progress_of(series: Series, event: str, detail: str = "") -> Progress:
    """Return an event of a series with what its rounds say so far."""
    interim = series.interim()
    statistics = interim.statistics if interim else None
    return Progress(series.candidate.label, event, len(series.rounds), statistics, detail)


def _next_cycle(going: Sequence[Series]) -> list[Series]:
    """Return the series that make the next round, in an order that rotates from round to round.

    Those that are narrow already go on with the others, so that rounds stay paired. After an
    interruption, those that are behind catch up first.
    """
    fewest = min(len(s.rounds) for s in going)
    behind = [s for s in going if len(s.rounds) == fewest]
    first = fewest % len(behind)
    return behind[first:] + behind[:first]


def _make_round(series: Series, run: Run, alone: bool) -> None:
    while series.header.key not in run.aside:
        try:
            series.run_round(run.runners.of(series), run.device, run.database)
        except DeviceError as error:
            _after_fault(series, error, run, alone)
        else:
            run.report(progress_of(series, "round"))
            return


def _after_fault(series: Series, error: DeviceError, run: Run, alone: bool) -> None:
    """Record a fault and pause for a retry, or set the series aside; raises the error where that ends it."""
    key = series.header.key
    run.runners.drop(series)
    run.faults[key] += 1
    if series.row is not None:
        run.database.note(series.row, f"fault {run.faults[key]}: {error}")
    if run.retries == 0:
        raise error
    if run.faults[key] <= run.retries:
        run.report(progress_of(series, "fault", f"{error}; tries again"))
        run.clock.sleep(PAUSES_S[min(run.faults[key], len(PAUSES_S)) - 1])
        return
    text = f"{error}\nThat was fault {run.faults[key]} of this run; its {len(series.rounds)} rounds are kept"
    if alone or not _answers(run.device):
        raise DeviceError(text) from error
    run.aside[key] = text
    run.report(progress_of(series, "fault", f"{error}; set aside"))


def _answers(device: Device) -> bool:
    try:
        device.state()
    except DeviceError:
        return False
    return True
