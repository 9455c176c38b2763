"""The benchmark protocol: how candidates are measured side by side on one device.

1. The device's fingerprint is compared with what the profile expects.
2. Settle for `settle_s`. Start every candidate's runner and warm it up until two successive
   windows agree, at least `warmup_s`, at most `warmup_max_s`.
3. Rounds of about `round_s` seconds (three samples at least), interleaved, A B C, B C A, C A B:
   what drifts on the device drifts for all of them, and none is always the first. The state is
   read before and after each round, and each round is recorded as soon as it is done.
4. Stop when every candidate has `min_rounds` clean rounds and an interval of half-width
   `target_width` relative to its median, or has reached `max_rounds` or `max_seconds` of rounds.
5. Judge the rounds (`devices.verdict`) and record the verdict. An interval wider than
   `unstable_width`, or too few clean rounds, make the measurement unstable.

A run that was killed goes on: rounds that the database holds of an unfinished measurement with
the same key are taken as they are, and only the missing ones are made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from compiler.device import Device, DeviceProfile
from compiler.errors import DeviceError
from compiler.records import Measurement, Statistics
from devices.database import Header, MeasurementDatabase
from devices.series import Candidate, OpenRunners, Series
from devices.statistics import RESAMPLES

OPEN_RUNNERS = 64

__all__ = ["Candidate", "Progress", "check_expected", "header", "measure"]


@dataclass(frozen=True)
class Progress:
    """Something that happened: `event` is reused, resumed, ready, round or finished."""

    label: str
    event: str
    rounds: int
    statistics: Statistics | None


Report = Callable[[Progress], None]


def measure(
    candidates: Sequence[Candidate],
    device: Device,
    profile: DeviceProfile,
    database: MeasurementDatabase,
    progress: Report | None = None,
    *,
    reuse: bool = False,
    open_runners: int = OPEN_RUNNERS,
) -> list[Measurement]:
    """Measure candidates interleaved and return their measurements in the order given.

    Candidates with equal keys (same artifact, target and series) are measured once. With `reuse`,
    the newest stable measurement of the same key is returned as it is. At most `open_runners` runners
    are up at a time; beyond that a candidate's runner is started and warmed up again for each of
    its rounds, so raise it as far as the device's memory allows.

    Raises DeviceError when the device or a runner fails or is not the one the profile expects.
    Whatever ends it early, Ctrl-C too, ends the runners and keeps all finished rounds.
    """
    report = progress or (lambda _: None)
    fingerprint = dict(device.fingerprint())
    check_expected(profile, fingerprint)
    headers = [header(c, device, profile, fingerprint) for c in candidates]
    known = _reusable(headers, database, report) if reuse else {}
    new = {
        h.key: Series(c, h, profile) for c, h in zip(candidates, headers, strict=True) if h.key not in known
    }
    _resume(list(new.values()), database, report)
    with closing(OpenRunners(device, database, open_runners)) as runners:
        _run(list(new.values()), runners, device, database, report)
    known |= _finish(new, database, report)
    return [known[header.key] for header in headers]


def check_expected(profile: DeviceProfile, fingerprint: Mapping[str, str]) -> None:
    """Compare a profile's [expect] with a device's fingerprint; DeviceError where they differ."""
    for key, expected in profile.expect.items():
        if fingerprint.get(key) != expected:
            found = (
                repr(fingerprint[key]) if key in fingerprint else f"nothing; it tells {sorted(fingerprint)}"
            )
            raise DeviceError(
                f"the profile {profile.name!r} expects {key} = {expected!r}, the device says {found}"
            )


def header(
    candidate: Candidate, device: Device, profile: DeviceProfile, fingerprint: Mapping[str, str]
) -> Header:
    """Return what is known of a measurement before it begins; its key names the population."""
    return Header(
        artifact_digest=candidate.artifact_digest,
        graph_digest=candidate.graph_digest,
        plan_digest=candidate.plan_digest,
        profile=profile.name,
        profile_digest=profile.digest(),
        protocol_digest=profile.protocol_digest(),
        device=device.name,
        fingerprint=fingerprint,
        metric=profile.protocol.metric,
        threads=profile.threads,
        plan=candidate.plan,
        target=candidate.target,
        series=candidate.series,
        label=candidate.label,
    )


def _reusable(
    headers: Sequence[Header], database: MeasurementDatabase, report: Report
) -> dict[str, Measurement]:
    known = {}
    for header in headers:
        found = [m for m in database.measurements(key=header.key) if m.stable]
        if found:
            known[header.key] = found[-1]
            report(Progress(header.label, "reused", len(found[-1].rounds), found[-1].statistics))
    return known


def _resume(all_series: Sequence[Series], database: MeasurementDatabase, report: Report) -> None:
    for series in all_series:
        if series.resume(database):
            report(_progress(series, "resumed"))


def _run(
    all_series: Sequence[Series],
    runners: OpenRunners,
    device: Device,
    database: MeasurementDatabase,
    report: Report,
) -> None:
    """Start the runners and make rounds until every series is narrow or exhausted."""
    if all(_done(s) for s in all_series):
        return
    time.sleep(all_series[0].profile.protocol.settle_s)
    for series in all_series:
        if not series.exhausted():
            runners.of(series)
            report(_progress(series, "ready"))
    while not all(_done(s) for s in all_series):
        for series in _next_cycle(all_series):
            series.run_round(runners.of(series), device, database)
            report(_progress(series, "round"))


def _next_cycle(all_series: Sequence[Series]) -> list[Series]:
    """Return the series that make the next round, in an order that rotates from round to round.

    Those that are narrow already go on with the others, so that rounds stay paired. After an
    interruption, those that are behind catch up first.
    """
    going = [s for s in all_series if not s.exhausted()]
    fewest = min(len(s.rounds) for s in going)
    behind = [s for s in going if len(s.rounds) == fewest]
    first = fewest % len(behind)
    return behind[first:] + behind[:first]


def _done(series: Series) -> bool:
    return series.exhausted() or series.narrow()


def _finish(
    new: Mapping[str, Series], database: MeasurementDatabase, report: Report
) -> dict[str, Measurement]:
    """Record the verdicts on all series at once, so that a run which is cut off goes on as a whole."""
    rows = {key: series.row for key, series in new.items() if series.row is not None}
    database.finish_all({row: new[key].conclude(RESAMPLES) for key, row in rows.items()})
    made = {}
    for key, row in rows.items():
        found = database.latest(id=row)
        assert found is not None
        made[key] = found
        report(Progress(new[key].candidate.label, "finished", len(found.rounds), found.statistics))
    return made


def _progress(series: Series, event: str) -> Progress:
    interim = series.interim()
    return Progress(
        series.candidate.label, event, len(series.rounds), interim.statistics if interim else None
    )
