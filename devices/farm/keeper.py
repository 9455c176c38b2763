"""The thread that keeps one device of a farm at work: its worker, its faults, its end.

A fault is the device's where its worker dies, falls silent or does not finish, and where the device no
longer answers after a job failed. A device that answers is not blamed for a program that fails.
"""

from __future__ import annotations

import math
import threading
from dataclasses import replace

from compiler.errors import DeviceError, EdgewrightError, UsageError
from compiler.records import Measurement
from devices.database import MeasurementDatabase
from devices.farm.board import Board, Entry
from devices.farm.job import DeviceReport
from devices.farm.limits import Limits
from devices.farm.messages import Assignment, Done, Failed, Message, Opened, Ready, Take
from devices.farm.worker_process import LostWorkerError, StoppedError, WorkerProcess
from devices.lease import Tell


class UnusableError(Exception):
    """The device cannot be had."""


class Keeper(threading.Thread):
    """One device of a farm."""

    def __init__(
        self,
        given: Assignment,
        board: Board,
        database: MeasurementDatabase,
        limits: Limits,
        stop: threading.Event,
        tell: Tell,
    ) -> None:
        """Say which device; `start` starts its worker."""
        super().__init__(name=f"keeper of {given.device}", daemon=True)
        self.opened: Opened | None = None
        self.known = threading.Event()  # set once the device is there, or cannot be had
        self.accepted = threading.Event()  # set by the farm once it wants the device
        self._given, self._board, self._database, self._limits = given, board, database, limits
        self._stop_all, self._tell = stop, tell
        self._worker: WorkerProcess | None = None
        self._report = DeviceReport(given.device, "", {}, 0, 0, "")
        self._in_a_row = 0

    @property
    def report(self) -> DeviceReport:
        """What became of the device so far."""
        return self._report

    def reject(self, reason: str) -> None:
        """Do not use the device after all."""
        self._out(reason)
        self.accepted.set()

    def run(self) -> None:
        """Do jobs until there are no more, or the device is out."""
        try:
            self._begin()
            while not self._report.reason and (entry := self._board.take(self._given.device)):
                self._do(entry)
        except StoppedError:
            pass
        except (LostWorkerError, UnusableError) as error:
            self._out(str(error))
        except Exception as error:  # a fault of ours must not leave jobs waiting for a thread that is gone
            self._out(f"internal fault: {type(error).__name__}: {error}")
        finally:
            self.known.set()
            if self._worker is not None:
                self._worker.close()

    def _begin(self) -> None:
        self._start()
        opened = self.opened = self._opened()
        self._report = replace(self._report, kind=opened.kind, fingerprint=dict(opened.fingerprint))
        self.known.set()
        self.accepted.wait()
        if not self._report.reason:
            self._lease()

    def _do(self, entry: Entry) -> None:
        try:
            message = self._ask(entry)
        except StoppedError:
            self._board.fail(entry, DeviceError("the farm was closed"))
            raise
        except (LostWorkerError, UnusableError) as error:
            self._worker = None
            self._fault(str(error), enough=isinstance(error, UnusableError) or error.silent)
            self._board.again(entry, self._given.device, str(error))
        except Exception as error:
            self._board.fail(entry, error)
            raise
        else:
            self._judge(entry, message)

    def _ask(self, entry: Entry) -> Message:
        worker = self._worker or self._restart()
        worker.send(entry.task)
        return worker.receive(self._limits.seconds(entry.job.profile.protocol), self._limits.silence_s)

    def _judge(self, entry: Entry, message: Message) -> None:
        if isinstance(message, Done):
            self._in_a_row = 0
            self._report = replace(self._report, done=self._report.done + 1)
            self._board.done(entry, self._row(message.row))
        elif not isinstance(message, Failed) or not message.again:
            self._board.fail(entry, _error(message))
        else:
            if not message.answers:
                self._fault(message.text)
            self._board.again(entry, self._given.device, message.text)

    def _row(self, row: int) -> Measurement:
        found = self._database.latest(id=row)
        assert found is not None
        return found

    def _start(self) -> WorkerProcess:
        self._worker = WorkerProcess(self._given, self._stop_all, self._told)
        return self._worker

    def _restart(self) -> WorkerProcess:
        worker = self._start()
        now, before = self._opened(), self.opened
        assert before is not None
        if (now.identity, now.kind) != (before.identity, before.kind):
            raise UnusableError(f"it is another device now: {now.identity}, {dict(now.fingerprint)}")
        self._lease()
        return worker

    def _opened(self) -> Opened:
        assert self._worker is not None
        message = self._worker.receive(self._limits.start_s)
        if not isinstance(message, Opened):
            raise UnusableError(_text(message))
        return message

    def _lease(self) -> None:
        assert self._worker is not None
        self._worker.send(Take())
        message = self._worker.receive(math.inf, self._limits.silence_s)
        if not isinstance(message, Ready):
            raise UnusableError(_text(message))

    def _fault(self, reason: str, enough: bool = False) -> None:
        self._in_a_row += 1
        self._report = replace(self._report, faults=self._report.faults + 1)
        self._told(f"fault: {reason}")
        if enough or self._in_a_row >= self._limits.faults:
            self._out(f"quarantined after {self._in_a_row} faults in a row, the last: {reason}")

    def _out(self, reason: str) -> None:
        self._report = replace(self._report, reason=reason)
        self._board.leave(self._given.device, reason)
        self._told(f"gets no more jobs: {reason}")

    def _told(self, text: str) -> None:
        self._tell(f"{self._given.device}: {text}")


def _text(message: Message) -> str:
    return message.text if isinstance(message, Failed) else f"its worker said {message}"


def _error(message: Message) -> EdgewrightError:
    """Return the error that a worker met, as far as it is one of those a user can act on."""
    kinds: dict[str, type[EdgewrightError]] = {"DeviceError": DeviceError, "UsageError": UsageError}
    kind = kinds.get(message.kind, EdgewrightError) if isinstance(message, Failed) else EdgewrightError
    return kind(_text(message))
