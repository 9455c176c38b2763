"""A shell on this machine behind the port of remote ones, with faults to order."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from compiler.errors import DeviceError
from devices.channel import Channel, ProcessChannel


class HungUp(ProcessChannel):
    """A channel whose close ends nothing, as a connection that is cut."""

    def close(self) -> None:
        if self._words is None:
            self._words = self.last_words()
            self.end_input()
            self.process.stdout.close()
            self._stderr.close()


class LocalShell:
    """Runs scripts with this machine's sh; `sent` tells what files went."""

    name = "here"
    block = 1 << 16

    def __init__(self, home: Path, path: str) -> None:
        self.env = {"HOME": str(home), "PATH": path}
        self.sent: list[str] = []
        self.channels: list[HungUp] = []
        self.spoil: Callable[[bytes], bytes] = lambda block: block
        self.break_after: int | None = None

    def open(self, script: str) -> Channel:
        pipe = subprocess.PIPE
        command = ["/bin/sh", "-c", script.encode(errors="surrogateescape")]
        channel = HungUp(
            lambda stderr: subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=stderr, env=self.env, start_new_session=True
            )
        )
        self.channels.append(channel)
        return channel

    def send(self, blocks: Iterable[bytes], remote: str, mode: int) -> None:
        self.sent.append(remote)
        with open(remote, "wb") as file:
            for block in blocks:
                if self.break_after == 0:
                    raise DeviceError("here was lost")
                if self.break_after is not None:
                    self.break_after -= 1
                file.write(self.spoil(block))

    def receive(self, remote: str, sink: IO[bytes]) -> None:
        try:
            sink.write(self.spoil(Path(remote).read_bytes()))
        except OSError as error:
            raise DeviceError(f"here refuses {remote!r}") from error

    def close(self) -> None:
        for channel in self.channels:
            channel.process.wait(30)
