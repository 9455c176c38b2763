"""A session on an emulated board: what the runner would time is counted, by the plugin in `count.c`.

The plugin and this process share one file, `struct tally`: five 64-bit words and a ring of counts.
"""

from __future__ import annotations

import mmap
import struct
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compiler.errors import DeviceError
from devices.line_session import LineSession

ROOM = 1 << 14  # marks: two for each inference of a request
CLOCK, REFUSED, THREADS, MARKS = range(4)
HEADER = struct.Struct("<5Q")
WORD = struct.Struct("<Q")
NS_OF_AN_INSTRUCTION = 1000  # of the clock that the plugin gives the guest
LEAST_SAMPLES = 3


class Tally:
    """The counter's file, seen from this side."""

    def __init__(self) -> None:
        """Make an empty one, gone with this object."""
        self._file = tempfile.NamedTemporaryFile(prefix="edgewright-count-")  # noqa: SIM115 (close does it)
        self._file.write(HEADER.pack(0, 0, 0, 0, ROOM) + bytes(ROOM * WORD.size))
        self._file.flush()
        self._memory = mmap.mmap(self._file.fileno(), 0)

    @property
    def path(self) -> Path:
        """Where the file is."""
        return Path(self._file.name)

    def word(self, index: int) -> int:
        """Return a word of the header."""
        return int(WORD.unpack_from(self._memory, index * WORD.size)[0])

    def between_marks(self, first: int, pairs: int) -> list[int]:
        """Return the instructions from each even mark to the next, of so many pairs from `first` on."""
        at = [self._count(first + i) for i in range(2 * pairs)]
        return [end - begin for begin, end in zip(at[::2], at[1::2], strict=True)]

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Let the guest's clocks tell instructions for a while."""
        refused = self.word(REFUSED)
        WORD.pack_into(self._memory, CLOCK * WORD.size, 1)
        try:
            yield
        finally:
            WORD.pack_into(self._memory, CLOCK * WORD.size, 0)
        if self.word(REFUSED) != refused:
            raise DeviceError("qemu keeps the guest's memory where the counter cannot reach its clock")

    def close(self) -> None:
        """Remove the file."""
        self._memory.close()
        self._file.close()

    def _count(self, mark: int) -> int:
        return int(WORD.unpack_from(self._memory, HEADER.size + mark % ROOM * WORD.size)[0])


class CountingSession:
    """A runner on an emulated board; requests for times are answered by instructions."""

    def __init__(self, session: LineSession, tally: Tally) -> None:
        """Take over a session whose emulator counts into `tally`."""
        self._session = session
        self._tally = tally
        # How long it took to emulate says nothing of a board, and it has no processors to choose from.
        self.ready: dict[str, object] = {**session.ready, "load_ns": 0, "first_ns": 0, "affinity": []}

    def request(self, message: Mapping[str, object], timeout_s: float = 600.0) -> dict[str, object]:
        """Send one request and return its answer; DeviceError as any session."""
        do: Any = message.get("do")
        if do == "time":
            return self._count(int(str(message["iterations"])), timeout_s)
        if do == "time_for":
            return self._count(int(str(message.get("min", LEAST_SAMPLES))), timeout_s)
        if do == "profile":
            with self._tally.clock():
                answer = self._session.request(message, timeout_s)
            return {"operations": [_counted(row) for row in _rows(answer)]}
        if do == "memory":
            raise DeviceError(
                "the memory of an emulated program is the emulator's, which says nothing of a board"
            )
        return self._session.request(message, timeout_s)

    def close(self) -> None:
        """End the runner; safe to call twice."""
        self._session.close()
        self._tally.close()

    def _count(self, iterations: int, timeout_s: float) -> dict[str, object]:
        if not 0 <= iterations <= ROOM // 2:
            raise DeviceError(f"cannot count {iterations} inferences at a time; at most {ROOM // 2}")
        first = self._tally.word(MARKS)
        self._session.request({"do": "count", "iterations": iterations}, timeout_s)
        made = self._tally.word(MARKS) - first
        if made != 2 * iterations:
            raise DeviceError(f"the runner made {made} marks for {iterations} inferences, not two for each")
        return {"instructions": self._tally.between_marks(first, iterations)}


def _rows(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = answer.get("operations")
    if not isinstance(rows, list):
        raise DeviceError(f"the runner answered {str(answer)[:200]} where operations were expected")
    return rows


def _counted(row: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in row.items() if key != "ns"}
    return {**rest, "instructions": [int(ns) // NS_OF_AN_INSTRUCTION for ns in row["ns"]]}
