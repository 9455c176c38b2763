"""The machine that edgewright itself runs on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

from compiler.device import Completed, Device
from compiler.errors import DeviceError
from compiler.records import DeviceState
from devices.channel import ProcessChannel, kill_group
from devices.content import content_address
from devices.line_session import LineSession, start_session
from devices.linux import read_processor, read_state

# `env` would take a program whose path holds "=" for one more variable, so it starts sh, which
# hands over at once; the program and its arguments are never parsed.
HAND_OVER = ("sh", "-c", 'exec "$0" "$@"')


class LocalTransport:
    """Reaches the one local device."""

    def open(self, address: str, cache: Path) -> Device:
        """Return the local device; DeviceError for an address."""
        if address:
            raise DeviceError(f"the device `local` takes no address, got {address!r}; accepted: local")
        return LocalDevice(cache)

    def devices(self) -> tuple[str, ...]:
        """Return the one spec there is."""
        return ("local",)


class LocalDevice:
    """Runs commands on this machine, on copies of pushed files in a private folder."""

    name = "local"

    def __init__(self, cache: Path, root: Path = Path("/")) -> None:
        """Keep pushed files below `cache`; read the system's state below `root`."""
        self._cache = cache / "pushed"
        self._root = root

    def interpreter(self, runtime: str) -> str:
        """Return the interpreter that runs edgewright: what lowers for a runtime can import it too."""
        return sys.executable

    def workspace(self) -> AbstractContextManager[str]:
        """Return a temporary folder."""
        return tempfile.TemporaryDirectory(prefix="edgewright-")

    def fingerprint(self) -> Mapping[str, str]:
        """Return machine, processor, core count, system and kernel."""
        return {
            "machine": platform.machine(),
            "processor": read_processor(self._root),
            "cores": str(os.cpu_count() or 0),
            "system": platform.system(),
            "kernel": platform.release(),
        }

    def state(self) -> DeviceState:
        """Return what /proc and /sys tell now."""
        return read_state(self._root)

    def push(self, path: Path, workspace: str | None = None) -> str:
        """Copy a file or folder into the cache unless its content is there; return the copy's path.

        A copy, not a hard link: a later edit of the original must not change what was pushed.
        A file for a workspace goes there.
        """
        if workspace is not None:
            self.pull(str(path), Path(workspace) / path.name)
            return str(Path(workspace) / path.name)
        address = content_address(path)
        place = self._private_folder() / address
        target = place / path.absolute().name
        if target.exists():
            return str(target)
        try:
            place.mkdir(exist_ok=True)
            _copy_atomically(path, target, address)
        except OSError as error:
            raise DeviceError(f"cannot push {str(path)!r} to {str(place)!r}: {error.strerror}") from error
        return str(target)

    def pull(self, remote: str, path: Path) -> None:
        """Copy a file to `path`; DeviceError where it is not there."""
        try:
            _copy_atomically(Path(remote), path, None)
        except OSError as error:
            raise DeviceError(f"cannot pull {remote!r} to {str(path)!r}: {error.strerror}") from error

    def run(
        self, command: Sequence[str], env: Mapping[str, str] | None = None, timeout_s: float = 600.0
    ) -> Completed:
        """Run a command to its end; DeviceError when it cannot start or takes too long."""
        process = _spawn(_with_env(command, env or {}), subprocess.DEVNULL, subprocess.PIPE)
        with process:
            try:
                stdout, stderr = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired as error:
                raise DeviceError(f"{command[0]!r} did not end within {timeout_s:g} s") from error
            finally:
                kill_group(process)
        return Completed(process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"))

    def start(self, command: Sequence[str], env: Mapping[str, str], affinity: Sequence[int]) -> LineSession:
        """Start a runner on the given CPUs (any, when none are given) and wait until it is ready."""

        def spawn(stderr: IO[bytes]) -> subprocess.Popen[bytes]:
            with _on_cpus(affinity):
                return _spawn(_with_env(command, env), subprocess.PIPE, stderr)

        channel = ProcessChannel(spawn)
        session = start_session(channel, f"the runner {' '.join(command)!r}")
        if hasattr(os, "sched_getaffinity"):
            session.ready["affinity"] = sorted(os.sched_getaffinity(channel.process.pid))
        return session

    def clean(self) -> int:
        """Remove what was pushed and return how many bytes it held."""
        if not self._cache.exists():
            return 0
        self._private_folder()
        held = sum(path.lstat().st_size for path in self._cache.rglob("*") if path.is_file())
        shutil.rmtree(self._cache)
        return held

    def _private_folder(self) -> Path:
        try:
            self._cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner = self._cache.stat().st_uid
            if owner != os.getuid():
                raise DeviceError(f"the cache {str(self._cache)!r} belongs to user {owner}, not to you")
            self._cache.chmod(0o700)
        except OSError as error:
            raise DeviceError(f"cannot use the cache {str(self._cache)!r}: {error.strerror}") from error
        return self._cache


def _copy_atomically(source: Path, target: Path, address: str | None) -> None:
    # The copy gets its name only when it is whole, and only if it holds what was addressed.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial") as partial:
        copy = Path(partial) / "copy"
        if source.is_dir():
            shutil.copytree(source, copy)
        else:
            shutil.copy(source, copy)
        if address is not None and content_address(copy) != address:
            raise DeviceError(f"{str(source)!r} changed while it was being pushed")
        try:
            copy.replace(target)
        except OSError:
            # Another process put the same folder there first: a folder cannot replace a full one.
            if address is None or not target.is_dir():
                raise


def _with_env(command: Sequence[str], env: Mapping[str, str]) -> list[str]:
    if not env:
        return list(command)
    return ["env", *(f"{key}={value}" for key, value in env.items()), *HAND_OVER, *command]


def _spawn(command: Sequence[str], stdin: int, stderr: int | IO[bytes]) -> subprocess.Popen[bytes]:
    # A group of its own: Ctrl-C reaches us alone, and we end the runner in order.
    try:
        return subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
        )
    except OSError as error:
        raise DeviceError(f"cannot start {command[0]!r}: {error.strerror}") from error


@contextmanager
def _on_cpus(cpus: Sequence[int]) -> Iterator[None]:
    # A child inherits the CPUs of the thread that starts it. Setting them here, for a moment,
    # needs no code between fork and exec, which is unsafe once torch has started threads.
    if not cpus:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise DeviceError("this system cannot bind a process to CPUs; leave [run] affinity out")
    before = os.sched_getaffinity(0)
    if not set(cpus) <= before:
        raise DeviceError(f"cannot run on CPUs {sorted(cpus)}: those allowed here are {sorted(before)}")
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


TRANSPORT = LocalTransport()
