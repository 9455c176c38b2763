"""The process that measures on one device of a farm, one job after the other.

It holds the device's lease as long as it lives, and ends with the farm that started it: where the farm
is gone the next sign of life cannot be sent. A polite kill ends its runners too.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from compiler.device import Device
from compiler.errors import DeviceError, EdgewrightError
from devices.benchmark import Progress, check_expected, header, measure
from devices.database import MeasurementDatabase, fingerprint_digest
from devices.farm.messages import (
    Assignment,
    Beat,
    Done,
    Failed,
    Message,
    Opened,
    Ready,
    Task,
    shortened,
)
from devices.lease import Tell, identity, lease


class Link:
    """The connection to the farm, which gives signs of life while the worker is at work."""

    def __init__(self, connection: Connection[Message, Any]) -> None:
        """Take over the connection."""
        self._connection = connection
        self._guard = threading.Lock()

    def send(self, message: Message) -> None:
        """Send a message; the process ends where the farm is gone."""
        try:
            with self._guard:
                self._connection.send(message)
        except OSError:
            os.kill(os.getpid(), signal.SIGTERM)

    def tell(self, text: str) -> None:
        """Send a line of progress."""
        self.send(Beat(shortened(text)))

    def receive(self) -> Any:
        """Return the next thing to do, None where the farm is gone."""
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            return None

    def beating(self, every_s: float) -> ExitStack:
        """Give signs of life until the context is left."""
        stack, stop = ExitStack(), threading.Event()

        def beat() -> None:
            while not stop.wait(every_s):
                self.send(Beat())

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(stop.set)
        return stack


def main(descriptor: int) -> None:
    """Do what comes over a connection until it ends."""
    signal.signal(signal.SIGTERM, _end)
    link = Link(Connection(descriptor))
    given = link.receive()
    if given is None:
        return
    sys.argv = list(given.command)  # what those who wait for our lease are told
    try:
        _serve(link, given)
    except EdgewrightError as error:
        link.send(Failed(type(error).__name__, shortened(str(error)), again=False, answers=False))


def _serve(link: Link, given: Assignment) -> None:
    with ExitStack() as stack:
        with link.beating(given.beat_s):
            device = given.opener(given.device, given.cache)
            found = dict(device.fingerprint())
            link.send(Opened(identity(device), fingerprint_digest(found), found))
        if link.receive() is None:
            return
        with link.beating(given.beat_s):
            database = stack.enter_context(MeasurementDatabase(given.database))
            stack.enter_context(
                lease(device, database, wait_s=given.wait_s, progress=link.tell, folder=given.leases)
            )
        link.send(Ready())
        while (task := link.receive()) is not None:
            with link.beating(given.beat_s):
                answer = work(task, device, database, link.tell)
            link.send(answer)


def work(task: Task, device: Device, database: MeasurementDatabase, tell: Tell) -> Done | Failed:
    """Measure what a task asks for, once: what an earlier try finished is the result."""
    try:
        fingerprint = dict(device.fingerprint())
        if refused := _refused(task, fingerprint):
            return refused
        return Done(_measured(task, device, fingerprint, database, tell))
    except DeviceError as error:
        return Failed("DeviceError", shortened(str(error)), again=True, answers=_answers(device))
    except EdgewrightError as error:
        return Failed(type(error).__name__, shortened(str(error)), again=False, answers=True)


def _refused(task: Task, fingerprint: Mapping[str, str]) -> Failed | None:
    try:
        check_expected(task.job.profile, fingerprint)
    except DeviceError as error:  # no other try, on no equal device, goes better
        return Failed("DeviceError", shortened(str(error)), again=False, answers=True)
    return None


def _measured(
    task: Task, device: Device, fingerprint: Mapping[str, str], database: MeasurementDatabase, tell: Tell
) -> int:
    job = task.job
    key = header(job.candidate, device, job.profile, fingerprint).key
    known = database.finished_ids(key, task.since_ns)
    known = known or (database.finished_ids(key, stable=True) if job.reuse else [])
    if not known:
        measure([job.candidate], device, job.profile, database, _told(tell))
        known = database.finished_ids(key, task.since_ns)
    return known[-1]


def _told(tell: Tell) -> Any:
    def line(event: Progress) -> None:
        so_far = f", median {event.statistics.median:.6g}" if event.statistics else ""
        tell(f"{event.label}: {event.event}, {event.rounds} rounds{so_far}")

    return line


def _answers(device: Device) -> bool:
    """Tell whether the device is there: then what failed is the program, or the moment."""
    try:
        device.fingerprint()
        device.state()
    except DeviceError:
        return False
    return True


def _end(number: int, frame: object) -> NoReturn:
    # Not twice: what is being cleaned up is not to be cut off.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)
