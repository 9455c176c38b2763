"""One candidate being measured: its runner, its rounds, and when it has enough of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from compiler.device import BenchmarkProtocol, Device, DeviceProfile, Session
from compiler.errors import DeviceError
from compiler.records import DeviceState, Metric, Round, RunSpec
from devices.clock import HOST, Clock
from devices.cooling import Cooling
from devices.database import Header, MeasurementDatabase
from devices.preflight import during, refuse_unfit
from devices.runner import start_runner
from devices.sampling import count, peak_memory, take, warm_up
from devices.statistics import RESAMPLES
from devices.verdict import Conclusion, conclude, readings

INTERIM_RESAMPLES = 400  # enough to decide to go on; to stop, the verdict's own number is used


@dataclass(frozen=True)
class Candidate:
    """Something to measure: what it is, what it was made from, and how to run it.

    `target` names the runtime and the versions that run the program; `plan` is the plan's text.
    `series` keeps apart measurements that would otherwise be one population.
    """

    label: str
    artifact_digest: str
    graph_digest: str
    plan_digest: str
    spec: RunSpec
    plan: str = ""
    target: Mapping[str, str] = field(default_factory=dict)
    series: str = ""


class Series:
    """The growing series of rounds of one candidate."""

    def __init__(
        self,
        candidate: Candidate,
        header: Header,
        profile: DeviceProfile,
        clock: Clock = HOST,
        skip_preflight: bool = False,
    ) -> None:
        """Start with no rounds and no row in the database."""
        self.candidate = candidate
        self.header = header
        self.profile = profile
        self.clock = clock
        self.skip_preflight = skip_preflight
        self.waits: list[str] = []
        self.cooling = Cooling(profile.protocol, header.metric, clock, self.waits.append)
        self.row: int | None = None
        self.rounds: list[Round] = []
        self.inference_ns = 0.0
        self._interim: Conclusion | None = None
        self._narrow: bool | None = None

    def resume(self, database: MeasurementDatabase) -> bool:
        """Take up the unfinished measurement of the same key; tell whether there was one."""
        self.row = database.unfinished(self.header.key)
        if self.row is not None:
            self.rounds = list(database.rounds(self.row))
            self.cooling.remember(self.rounds)
            self._interim = self._narrow = None
        return self.row is not None

    def start(self, device: Device, database: MeasurementDatabase) -> Session:
        """Start the runner, warm it up, and begin the row where there is none yet."""
        with self._named():
            session = start_runner(device, self.candidate.spec, self.profile.affinity)
            try:
                self._check_threads(session)
                warm = warm_up(session, self.profile.protocol, self.clock)
                if self.row is None:
                    first = _whole(session.ready.get("first_ns", warm.first_ns), "first_ns")
                    load = _whole(session.ready.get("load_ns"), "load_ns")
                    size, peak = _size(self.candidate.spec), peak_memory(session)
                    self.row = database.begin(
                        replace(
                            self.header, load_ns=load, first_ns=first, size_bytes=size, peak_rss_bytes=peak
                        )
                    )
            except BaseException:
                session.close()
                raise
        self.inference_ns = warm.inference_ns
        return session

    def run_round(self, session: Session, device: Device, database: MeasurementDatabase) -> None:
        """Make one round and record it at once."""
        assert self.row is not None
        protocol, metric = self.profile.protocol, self.header.metric
        with self._named():
            canary_ns = self._cool(session, device, database)
            before = self._fit(device)
            start = self.clock.now()
            samples = dict(
                take(session, count(protocol.round_s, self.inference_ns), metric, protocol.round_s)
            )
            duration_s = self.clock.now() - start
            after = device.state()
        affinity = session.ready.get("affinity")
        made = Round(
            index=len(self.rounds),
            samples=samples.pop(metric),
            before=before,
            after=after,
            affinity=tuple(affinity) if isinstance(affinity, list) else (),
            also=samples,
            duration_ns=round(duration_s * 1e9),
            canary_ns=canary_ns,
        )
        database.append(self.row, metric, made)
        self.rounds.append(made)
        self._interim = self._narrow = None
        wall = readings(made, metric, Metric.WALL)
        self.inference_ns = float(np.median(wall)) if wall else 0.0

    def interim(self) -> Conclusion | None:
        """Return what the rounds so far say, None before the first."""
        if self._interim is None and self.rounds:
            self._interim = self.conclude(INTERIM_RESAMPLES, tails=False)
        return self._interim

    def conclude(self, resamples: int, *, tails: bool = True) -> Conclusion:
        """Return the verdict on all rounds."""
        protocol, metric = self.profile.protocol, self.header.metric
        return conclude(self.rounds, metric, self.profile.threads, protocol, resamples, tails=tails)

    def narrow(self) -> bool:
        """Tell whether there are enough clean rounds and their interval is within the target width."""
        if self._narrow is None:
            interim = self.interim()
            # Few resamples say soon that it is wide; that it is narrow, the verdict itself must say.
            self._narrow = (
                interim is not None
                and self._within_target(interim)
                and self._within_target(self.conclude(RESAMPLES, tails=False))
            )
        return self._narrow

    def exhausted(self) -> bool:
        """Tell whether the limit of rounds or of seconds is reached."""
        return exhausted(self.rounds, self.profile.protocol)

    def _within_target(self, conclusion: Conclusion) -> bool:
        protocol = self.profile.protocol
        if conclusion.clean < protocol.min_rounds:
            return False
        return conclusion.statistics.relative_width <= protocol.target_width

    def _check_threads(self, session: Session) -> None:
        threads = session.ready.get("threads")
        if threads != self.profile.threads:
            raise DeviceError(
                f"the runner uses {threads} threads, the profile {self.profile.name!r} asks for "
                f"{self.profile.threads}"
            )

    def _cool(self, session: Session, device: Device, database: MeasurementDatabase) -> int | None:
        """Wait as the cool-down asks, and record that it waited, also where it then gives up."""
        assert self.row is not None
        try:
            return self.cooling.wait(device, session)
        finally:
            for text in self.waits:
                database.note(self.row, text)
            self.waits.clear()

    def _fit(self, device: Device) -> DeviceState:
        """Return the state before a round; UnstableMeasurementError where the profile refuses it."""
        state = device.state()
        if not self.skip_preflight:
            kept = f"The {len(self.rounds)} rounds that are done are kept: run the same command again."
            refuse_unfit(during(state, self.profile.preflight), device.name, kept)
        return state

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except DeviceError as error:
            raise DeviceError(f"while measuring {self.candidate.label!r}: {error}") from error


def exhausted(rounds: list[Round], protocol: BenchmarkProtocol) -> bool:
    """Tell whether the rounds reach `max_rounds`, or their time `max_seconds`."""
    spent_s = sum(map(_duration_ns, rounds)) / 1e9
    return len(rounds) >= protocol.max_rounds or spent_s >= protocol.max_seconds


def _duration_ns(round_: Round) -> int:
    # Rounds of an older database know no more than the device's wall clock, which may have been set.
    if round_.duration_ns is not None:
        return round_.duration_ns
    return max(0, round_.after.time_ns - round_.before.time_ns)


class OpenRunners:
    """At most `limit` running runners; the one not used for longest makes room for a new one."""

    def __init__(self, device: Device, database: MeasurementDatabase, limit: int) -> None:
        """Start with none."""
        self._device = device
        self._database = database
        self._limit = max(1, limit)
        self._open: OrderedDict[str, Session] = OrderedDict()

    def of(self, series: Series) -> Session:
        """Return the runner of a series, started and warmed up if it is not running."""
        key = series.header.key
        if key not in self._open:
            while len(self._open) >= self._limit:
                self._open.popitem(last=False)[1].close()
            self._open[key] = series.start(self._device, self._database)
        self._open.move_to_end(key)
        return self._open[key]

    def drop(self, series: Series) -> None:
        """End the runner of a series, if it is up."""
        session = self._open.pop(series.header.key, None)
        if session is not None:
            session.close()

    def close(self) -> None:
        """End all runners."""
        while self._open:
            self._open.popitem()[1].close()


def _whole(value: object, name: str) -> int:
    if type(value) is not int or value < 0:
        raise DeviceError(f"the runner's ready line holds {name} = {value!r}, not nanoseconds")
    return value


def _size(spec: RunSpec) -> int:
    """Return the bytes of the files that a runner is given."""
    return sum(_bytes(path) for path in spec.files.values())


def _bytes(path: Path) -> int:
    if path.is_dir():
        return sum(child.stat().st_size for child in path.rglob("*") if child.is_file())
    return path.stat().st_size
