"""A shell on this machine behind the port of remote ones, with faults to order."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from compiler.errors import DeviceError
from devices.channel import Channel, ProcessChannel


class LocalShell:
    """Runs scripts with this machine's sh; `sent` and `scripts` tell what was asked of it."""

    name = "here"
    block = 1 << 16

    def __init__(self, home: Path, path: str) -> None:
        self.env = {"HOME": str(home), "PATH": path}
        self.sent: list[str] = []
        self.scripts: list[str] = []
        self.spoil: Callable[[bytes], bytes] = lambda block: block
        self.break_after: int | None = None

    def open(self, script: str) -> Channel:
        self.scripts.append(script)
        pipe = subprocess.PIPE
        command = ["/bin/sh", "-c", script.encode(errors="surrogateescape")]
        return ProcessChannel(
            lambda stderr: subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=stderr, env=self.env, start_new_session=True
            )
        )

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
        pass
