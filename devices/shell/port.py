"""The port of a device that is reached through a POSIX shell: scripts, and whole files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, Protocol

from devices.channel import Channel


class Shell(Protocol):
    """A shell on a device. Each method raises DeviceError when the device is lost or refuses.

    A channel's `close` hangs up; that the process is gone is `ShellDevice`'s to see to.
    """

    name: str
    block: int  # bytes that `send` likes best in one block

    def open(self, script: str) -> Channel:
        """Start a script with the device's sh."""
        ...

    def send(self, blocks: Iterable[bytes], remote: str, mode: int) -> None:
        """Write a file on the device, replacing what is there."""
        ...

    def receive(self, remote: str, sink: IO[bytes]) -> None:
        """Read a file of the device."""
        ...

    def close(self) -> None:
        """Let go of the device; what is used again connects again."""
        ...
