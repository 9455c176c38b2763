"""Boards reached by SSH: `ssh:USER@HOST[:PORT]`, by asyncssh (`edgewright[ssh]`).

Host keys are checked against ~/.ssh/known_hosts, keys come from the agent and ~/.ssh, and ~/.ssh/config
holds for aliases, as with the ssh program; no password is asked for. asyncssh runs on a thread of its
own, one for each device. A connection that was lost is made again at the next call.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import threading
from collections.abc import Coroutine, Iterable, Mapping
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from compiler.device import Device
from compiler.errors import DeviceError
from devices import linux
from devices.channel import STDERR_BYTES, Channel
from devices.shell import ShellDevice

if TYPE_CHECKING:
    import asyncssh

PLACE = '"${XDG_CACHE_HOME:-$HOME/.cache}"/edgewright/remote'
CONNECT_S = 20.0
CALL_S = 60.0
KEEPALIVE_S = 15
READ_BYTES = 1 << 18
BLOCK = 4 << 20

Result = TypeVar("Result")


@dataclass(frozen=True)
class SshAddress:
    """Who on which host."""

    host: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        return f"{user}{self.host}" + (f":{self.port}" if self.port else "")


def parse_address(text: str) -> SshAddress:
    """Read `USER@HOST:PORT`, user and port optional; DeviceError saying what would be accepted."""
    found = re.fullmatch(r"(?:([^@\s]+)@)?(\[[^\]]+\]|[^@:\s\[\]]+)(?::(\d{1,5}))?", text)
    if not found or found[2].startswith("-"):
        raise DeviceError(f"{text!r} is no address of a board; accepted: ssh:USER@HOST or ssh:USER@HOST:PORT")
    return SshAddress(found[2].strip("[]"), found[1], int(found[3]) if found[3] else None)


class SshTransport:
    """Reaches boards by SSH."""

    def open(self, address: str, cache: Path) -> Device:
        """Return the board at an address; DeviceError saying why it cannot be reached."""
        return open_board(parse_address(address))

    def devices(self) -> tuple[str, ...]:
        """Return nothing: no network is searched for boards."""
        return ()


def open_board(address: SshAddress, options: Mapping[str, object] | None = None) -> ShellDevice:
    """Connect and return the board; `options` go to asyncssh besides ours."""
    if find_spec("asyncssh") is None:
        raise DeviceError("reaching a board by SSH needs asyncssh: pip install 'edgewright[ssh]'")
    shell = SshShell(address, options or {})
    try:
        shell.connect()
    except BaseException:
        shell.close()
        raise
    return ShellDevice(shell, linux, PLACE, python="python3")


class SshShell:
    """Scripts by exec requests, files by SFTP."""

    block = BLOCK

    def __init__(self, address: SshAddress, options: Mapping[str, object]) -> None:
        """Start the thread; `connect` connects."""
        self.name = f"ssh:{address}"
        self._address = address
        self._options = options
        self._connection: asyncssh.SSHClientConnection | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=self.name, daemon=True)
        self._thread.start()

    def connect(self) -> None:
        """Connect unless we are."""
        if self._connection is None or self._connection.is_closed():
            self._connection = self.call(_connect(self._address, self._options, self.name), CONNECT_S + 5)

    def open(self, script: str) -> Channel:
        """Start a script with sh, whatever the user's login shell is."""
        command = f"exec /bin/sh -c {shlex.quote(script)}".encode(errors="surrogateescape")
        self.connect()
        return SshChannel(self, self.call(self._start(command), CALL_S))

    def send(self, blocks: Iterable[bytes], remote: str, mode: int) -> None:
        """Write a file by SFTP."""
        self.connect()
        self.call(self._send(blocks, remote.encode(errors="surrogateescape"), mode), None)

    def receive(self, remote: str, sink: IO[bytes]) -> None:
        """Read a file by SFTP."""
        self.connect()
        self.call(self._receive(remote.encode(errors="surrogateescape"), sink), None)

    def close(self) -> None:
        """End the connection and the thread."""
        if self._loop.is_closed():
            return
        if self._connection is not None:
            self._loop.call_soon_threadsafe(self._connection.abort)
            with suppress(DeviceError):
                self.call(self._connection.wait_closed(), 5.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def call(self, work: Coroutine[Any, Any, Result], timeout_s: float | None) -> Result:
        """Run a coroutine on the thread; DeviceError when the board is lost, refuses or does not answer."""
        try:
            return self.call_within(work, timeout_s)
        except TimeoutError as error:
            raise DeviceError(f"{self.name} did not answer within {timeout_s or CALL_S:g} s") from error

    def call_within(self, work: Coroutine[Any, Any, Result], timeout_s: float | None) -> Result:
        """Run a coroutine on the thread; TimeoutError when it takes too long."""
        import asyncssh

        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout_s)
        except (TimeoutError, CancelledError) as error:
            future.cancel()
            raise TimeoutError from error
        except asyncssh.SFTPError as error:
            raise DeviceError(f"{self.name} refuses: {error.reason}") from error
        except BrokenPipeError:
            raise
        except (asyncssh.Error, OSError) as error:
            raise DeviceError(f"{self.name} was lost: {error}") from error

    async def _start(self, command: bytes) -> asyncssh.SSHClientProcess[bytes]:
        assert self._connection is not None
        return await self._connection.create_process(command, encoding=None)

    async def _send(self, blocks: Iterable[bytes], remote: bytes, mode: int) -> None:
        import asyncssh

        assert self._connection is not None
        async with (
            self._connection.start_sftp_client() as files,
            files.open(remote, "wb", asyncssh.SFTPAttrs(permissions=mode)) as file,
        ):
            for block in blocks:
                await asyncio.wait_for(file.write(block), CALL_S)

    async def _receive(self, remote: bytes, sink: IO[bytes]) -> None:
        assert self._connection is not None
        async with (
            self._connection.start_sftp_client() as files,
            files.open(remote, "rb") as file,
        ):
            while block := await asyncio.wait_for(file.read(BLOCK), CALL_S):
                sink.write(block)


class SshChannel:
    """One running script; its stderr is collected as it comes."""

    def __init__(self, shell: SshShell, process: asyncssh.SSHClientProcess[bytes]) -> None:
        """Take over a started process."""
        self._shell = shell
        self._process = process
        self._stderr = bytearray()
        self._collecting = asyncio.run_coroutine_threadsafe(self._collect(), shell._loop)

    def send(self, data: bytes) -> None:
        """Write to stdin."""
        self._shell.call(self._write(data), CALL_S)

    def end_input(self) -> None:
        """Close stdin."""
        self._shell.call(self._end_input(), CALL_S)

    def receive(self, timeout_s: float) -> bytes:
        """Return stdout as it comes."""
        data: bytes = self._shell.call_within(self._process.stdout.read(READ_BYTES), timeout_s)
        return data

    def wait(self, timeout_s: float) -> int:
        """Return the exit code."""
        code = self._shell.call_within(self._ended(), timeout_s)
        if code is None:
            raise DeviceError(f"{self._shell.name} was lost: the connection ended while a command ran")
        return code

    def last_words(self) -> bytes:
        """Return the end of stderr."""
        return bytes(self._stderr)

    def close(self) -> None:
        """Close the channel."""
        with suppress(DeviceError):
            self._shell.call(self._close(), CALL_S)

    async def _write(self, data: bytes) -> None:
        self._process.stdin.write(data)
        await self._process.stdin.drain()

    async def _end_input(self) -> None:
        with suppress(OSError):
            self._process.stdin.write_eof()

    async def _ended(self) -> int | None:
        await self._process.wait_closed()
        await asyncio.wrap_future(self._collecting)
        code: int | None = self._process.returncode
        return code

    async def _close(self) -> None:
        self._process.close()
        await self._process.wait_closed()

    async def _collect(self) -> None:
        import asyncssh

        with suppress(asyncssh.Error, OSError):
            while data := await self._process.stderr.read(READ_BYTES):
                self._stderr += data
                del self._stderr[:-STDERR_BYTES]


async def _connect(
    address: SshAddress, options: Mapping[str, Any], name: str
) -> asyncssh.SSHClientConnection:
    import asyncssh

    known = {"username": address.user, "port": address.port}
    chosen: dict[str, Any] = {key: value for key, value in known.items() if value is not None}
    try:
        return await asyncssh.connect(
            address.host,
            connect_timeout=CONNECT_S,
            keepalive_interval=KEEPALIVE_S,
            **{"password": None, "kbdint_auth": False, **chosen, **options},
        )
    except asyncssh.HostKeyNotVerifiable as error:
        raise DeviceError(
            f"the host key of {address.host} is not in ~/.ssh/known_hosts, or another ({error.reason}): run "
            f" `ssh {address}` once and compare the fingerprint, or remove the old key with "
            f"`ssh-keygen -R {address.host}`"
        ) from error
    except asyncssh.PermissionDenied as error:
        raise DeviceError(
            f"{name} takes none of your keys: `ssh-copy-id {address}`, or load the key into the agent"
        ) from error
    except (asyncssh.Error, OSError, ValueError) as error:
        raise DeviceError(f"{name} cannot be reached: {error}") from error


TRANSPORT = SshTransport()
