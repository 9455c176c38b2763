"""The cool-down: before a round, wait until the device is cool and its clock what it was at its best.

Two things are looked at. The temperature the device tells must be below `cool_below_c`. And the
canary, the candidate's own first inferences, must not be slower than its best one by more than
`SLOWER`: it finds a clock that fell on devices that tell neither clocks nor temperatures.

A device that stays too hot for `cooldown_max_s` ends the measurement, its rounds kept: hours later the
same command goes on. A canary that stays slow does not, since the best one may have been a boost that
never comes again: the round is made, and the verdict marks it. One such wait that ran out is not
repeated until the canary has been fast again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from compiler.device import BenchmarkProtocol, Device, Session
from compiler.errors import UnstableMeasurementError
from compiler.records import DeviceState, Metric, Round
from devices.clock import Clock
from devices.sampling import canary
from devices.verdict import SLOWER

LOOK_S = 5.0  # between two looks at a device that cools

Tell = Callable[[str], None]


@dataclass
class Cooling:
    """The gate in front of one candidate's rounds, with the best canary seen so far."""

    protocol: BenchmarkProtocol
    metric: Metric
    clock: Clock
    tell: Tell
    best_ns: int | None = None
    gave_up: bool = field(default=False)

    def remember(self, rounds: Sequence[Round]) -> None:
        """Take up the canaries of rounds that an earlier run made."""
        self.best_ns = min((r.canary_ns for r in rounds if r.canary_ns), default=None)

    def wait(self, device: Device, session: Session) -> int | None:
        """Wait as long as it takes, within the limit, and return the canary's nanoseconds.

        None where the protocol asks for no cool-down. Raises UnstableMeasurementError when the device
        stays too hot, DeviceError when it or the runner fails.
        """
        if self.protocol.cooldown_max_s == 0:
            return None
        start = self.clock.now()
        self._until_cool(device, start)
        return self._until_fast(device, session, start)

    def _until_cool(self, device: Device, start: float) -> None:
        state, first = device.state(), True
        while self._too_hot(state):
            if self._ran_out(start):
                raise self._stays_hot(device.name, state)
            if first:
                self.tell(f"cools down from {state.temperature_c:g} C to {self.protocol.cool_below_c:g} C")
            first = False
            self.clock.sleep(LOOK_S)
            state = device.state()

    def _until_fast(self, device: Device, session: Session, start: float) -> int | None:
        found, first = canary(session, self.metric), True
        while found is not None and self._slow(found) and not self.gave_up:
            if self._ran_out(start):
                self.gave_up = True
                self.tell(
                    f"the clock stays low: {self._slower(found)}; the rounds go on and are judged by it"
                )
                break
            if first:
                self.tell(f"the clock fell: {self._slower(found)}; waits")
            first = False
            self.clock.sleep(LOOK_S)
            self._until_cool(device, start)
            found = canary(session, self.metric)
        if found is not None:
            self.gave_up = self.gave_up and self._slow(found)
            self.best_ns = min(found, self.best_ns or found)
        return found

    def _stays_hot(self, name: str, state: DeviceState) -> UnstableMeasurementError:
        protocol = self.protocol
        return UnstableMeasurementError(
            f"{name} has {state.temperature_c:g} C after {protocol.cooldown_max_s:g} s of waiting, below "
            f"{protocol.cool_below_c:g} C asked for; all rounds are kept: cool it, then run the command again"
        )

    def _too_hot(self, state: DeviceState) -> bool:
        limit, found = self.protocol.cool_below_c, state.temperature_c
        return limit is not None and found is not None and found >= limit

    def _slow(self, canary_ns: int) -> bool:
        return self.best_ns is not None and canary_ns > SLOWER * self.best_ns

    def _slower(self, canary_ns: int) -> str:
        assert self.best_ns is not None
        return f"an inference takes {canary_ns / self.best_ns:.2f} times its best"

    def _ran_out(self, start: float) -> bool:
        return self.clock.now() - start >= self.protocol.cooldown_max_s
