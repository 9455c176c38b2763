"""The benchmark protocol: how candidates are measured side by side on one device.

1. The device's fingerprint is compared with what the profile expects, and its state with what the
   profile accepts (`devices.preflight`).
2. Settle for `settle_s`. Start every candidate's runner and warm it up until two successive
   windows agree, at least `warmup_s`, at most `warmup_max_s`.
3. Rounds of about `round_s` seconds (three samples at least), interleaved, A B C, B C A, C A B:
   what drifts on the device drifts for all of them, and none is always the first. Where the profile
   asks for it, a round waits until the device has cooled down (`devices.cooling`). The state is
   read before and after each round, and each round is recorded as soon as it is done. What fails is
   tried again, a few times (`devices.rounds`).
4. Stop when every candidate has `min_rounds` clean rounds and an interval of half-width
   `target_width` relative to its median, or has reached `max_rounds` or `max_seconds` of rounds.
5. Judge the rounds (`devices.verdict`) and record the verdict. An interval wider than
   `unstable_width`, or too few clean rounds, make the measurement unstable.

A run that was killed goes on: rounds that the database holds of an unfinished measurement with
the same key are taken as they are, and only the missing ones are made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing

from compiler.device import Device, DeviceProfile
from compiler.errors import DeviceError
from compiler.records import Measurement
from devices.clock import HOST, Clock
from devices.database import Header, MeasurementDatabase
from devices.preflight import Check, Outcome, cores_of, preflight, refuse_unfit
from devices.rounds import RETRIES, Progress, Report, Run, make_rounds, progress_of, start_runners
from devices.series import Candidate, OpenRunners, Series
from devices.statistics import RESAMPLES

OPEN_RUNNERS = 64

__all__ = ["Candidate", "Progress", "Report", "check_expected", "measure"]


def measure(
    candidates: Sequence[Candidate],
    device: Device,
    profile: DeviceProfile,
    database: MeasurementDatabase,
    progress: Report | None = None,
    *,
    reuse: bool = False,
    open_runners: int = OPEN_RUNNERS,
    retries: int = RETRIES,
    skip_preflight: bool = False,
    clock: Clock = HOST,
) -> list[Measurement]:
    """Measure candidates interleaved and return their measurements in the order given.

    Candidates with equal keys (same artifact, target and series) are measured once. With `reuse`,
    the newest stable measurement of the same key is returned as it is. At most `open_runners` runners
    are up at a time; beyond that a candidate's runner is started and warmed up again for each of
    its rounds, so raise it as far as the device's memory allows. A candidate's round is tried again
    after at most `retries` faults; with 0 the first ends the run. With `skip_preflight`, a device that
    is not fit is measured all the same; the reading says so.

    Raises DeviceError when the device or a runner fails or is not the one the profile expects, and
    UnstableMeasurementError when the device is not fit to be measured, or stays too hot. Whatever ends
    it early, Ctrl-C too, ends the runners and keeps all finished rounds.
    """
    report = progress or (lambda _: None)
    fingerprint = dict(device.fingerprint())
    check_expected(profile, fingerprint)
    headers = [_header(c, device, profile, fingerprint) for c in candidates]
    known = _reusable(headers, database, report) if reuse else {}
    new = {
        h.key: Series(c, h, profile, clock, skip_preflight)
        for c, h in zip(candidates, headers, strict=True)
        if h.key not in known
    }
    _resume(list(new.values()), database, report)
    with closing(OpenRunners(device, database, open_runners)) as runners:
        run = Run(runners, device, database, report, clock, retries)
        _run(list(new.values()), run, profile)
    known |= {key: _finish(s, database, report) for key, s in new.items() if key not in run.aside}
    if run.aside:
        raise DeviceError(_set_aside(run.aside, len(new)))
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


def _header(
    candidate: Candidate, device: Device, profile: DeviceProfile, fingerprint: Mapping[str, str]
) -> Header:
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
            report(progress_of(series, "resumed"))


def _run(all_series: Sequence[Series], run: Run, profile: DeviceProfile) -> None:
    """Check the device, start the runners and make the rounds, where any is missing."""
    if all(s.exhausted() or s.narrow() for s in all_series):
        return
    checks = _preflight(run, profile, all_series[0].skip_preflight)
    run.clock.sleep(profile.protocol.settle_s)
    start_runners(all_series, run)
    for row in [s.row for s in all_series if s.row is not None]:
        for check in checks:
            run.database.note(row, f"preflight: {check.found}")
    make_rounds(all_series, run)


def _preflight(run: Run, profile: DeviceProfile, skip: bool) -> list[Check]:
    """Tell what is amiss and return it; UnstableMeasurementError where the profile refuses it."""
    state = run.device.state()
    checks = preflight(state, profile.preflight, cores_of(run.device.fingerprint(), state))
    amiss = [c for c in checks if c.outcome in (Outcome.WARN, Outcome.REFUSE)]
    for check in amiss:
        run.report(Progress("", "preflight", 0, None, f"{check.outcome}: {check.sentence}"))
    if not skip:
        refuse_unfit(checks, run.device.name)
    return amiss


def _set_aside(aside: Mapping[str, str], candidates: int) -> str:
    rest = candidates - len(aside)
    kept = f"\nThe {rest} other candidates are measured, and kept" if rest else ""
    return "\n".join(aside.values()) + kept


def _finish(series: Series, database: MeasurementDatabase, report: Report) -> Measurement:
    assert series.row is not None
    database.finish(series.row, series.conclude(RESAMPLES))
    found = database.latest(id=series.row)
    assert found is not None
    report(Progress(series.candidate.label, "finished", len(found.rounds), found.statistics))
    return found
