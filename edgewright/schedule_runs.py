"""Measures the candidates of one kernel interleaved: a few short rounds each, on the device at hand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from compiler.device import Device, DeviceProfile
from compiler.errors import DeviceError, UnstableMeasurementError
from compiler.plan import Plan
from compiler.records import RunSpec
from devices.benchmark import Candidate, measure
from devices.database import MeasurementDatabase
from devices.runner import start_runner

SERIES = "schedules/1 "  # then the kernel; a new way to measure starts a new number
ROUNDS = 3
ROUND_S = 0.03
WARM_S = 0.02
TRIES = 3


def lean(profile: DeviceProfile) -> DeviceProfile:
    """Return a profile whose protocol has few short rounds: candidates are many, and most are slow."""
    protocol = profile.protocol
    short = replace(
        protocol,
        settle_s=0.0,
        warmup_s=min(protocol.warmup_s, WARM_S),
        warmup_max_s=min(protocol.warmup_max_s, 4 * WARM_S),
        round_s=min(protocol.round_s, ROUND_S),
        min_rounds=ROUNDS,
        max_rounds=ROUNDS,
    )
    return replace(profile, protocol=short)


@dataclass(frozen=True)
class ScheduleBench:
    """Measures programs of one kernel (compiler.tuning.Measure); raw samples go to the database."""

    kernel: str
    target: str
    device: Device
    profile: DeviceProfile
    database: MeasurementDatabase

    def __call__(self, programs: Sequence[RunSpec]) -> list[float | None]:
        """Return the median of each program, None for one that does not run.

        Raises DeviceError where the first does not run, or none is to blame, and
        UnstableMeasurementError where the clock does not hold: such readings decide nothing.
        """
        try:
            return list(self._medians(programs))
        except DeviceError as error:
            broken = {i for i, spec in enumerate(programs) if not self._starts(spec)}
            if not broken or 0 in broken:
                raise error
        rest = iter(self._medians([s for i, s in enumerate(programs) if i not in broken]))
        return [None if i in broken else next(rest) for i, _ in enumerate(programs)]

    def _medians(self, programs: Sequence[RunSpec]) -> list[float]:
        candidates = [self._candidate(i, spec) for i, spec in enumerate(programs)]
        for _ in range(TRIES):
            # A program that falls will fall again: it is told at once.
            found = measure(candidates, self.device, lean(self.profile), self.database, retries=0)
            if not any(m.throttled and not m.stable for m in found):
                return [m.statistics.median for m in found]
        raise UnstableMeasurementError(
            f"{self.device.name} throttles: {TRIES} times over, {len(programs)} programs of one kernel had "
            f"no reading at its full clock. Let it cool and run the same command again: what is done is kept"
        )

    def _candidate(self, index: int, spec: RunSpec) -> Candidate:
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in spec.files.values()]
        return Candidate(
            label=f"{self.kernel} {'default schedule' if not index else f'candidate {index}'}",
            artifact_digest=hashlib.sha256("".join(digests).encode()).hexdigest()[:16],
            graph_digest=self.kernel,
            plan_digest=Plan().digest(),
            spec=spec,
            target={"target": self.target},
            series=f"{SERIES}{self.kernel}",
        )

    def _starts(self, spec: RunSpec) -> bool:
        try:
            start_runner(self.device, spec, self.profile.affinity).close()
        except DeviceError:
            return False
        return True
