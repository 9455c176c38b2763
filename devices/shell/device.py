"""One `Device` for whatever is reached through a shell: a phone, a board.

What edgewright puts there lies in one private folder (`devices.shell.storage`). A command or runner is
marked in its environment (`devices.shell.scripts`), and when its time is up, or its session is
closed, everything with its mark is killed: on the device nothing of ours goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from compiler.device import Completed
from compiler.errors import DeviceError
from compiler.records import DeviceState
from devices.channel import Channel
from devices.line_session import LineSession, start_session
from devices.shell import execution, scripts
from devices.shell.checked import checked_start
from devices.shell.port import Shell
from devices.shell.storage import Storage

SHORT_S = 60.0
IMPORT_S = 300.0
BUNDLE = "devices.bundle"
MODULES = {"litert": "ai_edge_litert.interpreter", "executorch": "executorch.runtime"}


class System(Protocol):
    """The kind of system behind the shell: a module such as `devices.android`."""

    STATE_SCRIPT: str
    FINGERPRINT_SCRIPT: str

    def parse_state(self, text: str, time_ns: int) -> DeviceState:
        """Read what the state script printed."""
        ...

    def parse_fingerprint(self, text: str) -> Mapping[str, str]:
        """Read what the fingerprint script printed."""
        ...


class ShellDevice:
    """A device behind a shell."""

    def __init__(self, shell: Shell, system: System, place: str, python: str | None = None) -> None:
        """Use a shell.

        `place` is a shell expression for the private folder, which the device itself expands; `python`
        names an interpreter of its own to try before any is brought.
        """
        self.name = shell.name
        self.shell = shell
        self.storage = Storage(shell, self.execute, place)
        self._system = system
        self._python = python

    def fingerprint(self) -> Mapping[str, str]:
        """Return what identifies hardware and system; one call."""
        return self._system.parse_fingerprint(
            self.execute(self._system.FINGERPRINT_SCRIPT, repeatable=True).stdout
        )

    def state(self) -> DeviceState:
        """Return what the device says of itself now; one call."""
        done = self.execute(self._system.STATE_SCRIPT, repeatable=True)
        return self._system.parse_state(done.stdout, time.time_ns())

    def push(self, path: Path, workspace: str | None = None) -> str:
        """Copy a file or folder there unless its content is there already; return its path."""
        if workspace is not None:
            return self.storage.lay(path, workspace)
        return self.storage.push(path)

    def pull(self, remote: str, path: Path) -> None:
        """Copy a file from the device; `path` appears when it is whole."""
        self.storage.pull(remote, path)

    def run(
        self, command: Sequence[str], env: Mapping[str, str] | None = None, timeout_s: float = 600.0
    ) -> Completed:
        """Run a command to its end; DeviceError when it cannot start or takes too long.

        Of stderr, the last MiB is kept, and not checked for damage on the way as the rest is.
        """
        try:
            done = execution.execute(self.shell, scripts.run_script(command, env or {}), timeout_s)
        except TimeoutError as error:
            raise DeviceError(f"{command[0]!r} did not end within {timeout_s:g} s on {self.name}") from error
        if done.exit_code == 127 and done.stderr.strip() == scripts.NOT_STARTED:
            raise DeviceError(f"cannot start {command[0]!r}: there is no such program on {self.name}")
        return done

    def start(self, command: Sequence[str], env: Mapping[str, str], affinity: Sequence[int]) -> LineSession:
        """Start a runner on the given CPUs (any, when none are given) and wait until it is ready."""
        allowed = self._allowed_cpus(affinity)
        mark = scripts.new_mark()
        opened = self.shell.open(
            checked_start(scripts.marked(scripts.run_script(command, env, affinity), mark))
        )
        channel = _MarkedChannel(opened, lambda: execution.kill_marked(self.shell, mark))
        what = f"the runner {' '.join(command)!r} on {self.name}"
        session = start_session(channel, what, checked=True)
        if allowed:
            session.ready["affinity"] = sorted(allowed)
        return session

    def interpreter(self, runtime: str) -> str:
        """Return a Python on the device that can import a runtime: its own, or a bundle's."""
        if self._python is not None and self._imports(self._python, runtime):
            return self._python
        if find_spec(BUNDLE) is None:
            raise DeviceError(
                f"{self.name} has no Python for the runtime {runtime!r}: there is no runtime bundle for it"
            )
        path: str = import_module(BUNDLE).install(self, runtime)
        return path

    @contextmanager
    def workspace(self) -> Iterator[str]:
        """Give a private folder that is gone afterwards."""
        path = self.storage.make_workspace()
        try:
            yield path
        finally:
            with suppress(DeviceError):  # a lost device keeps it; `clean` removes it
                self.storage.remove(path)

    def clean(self) -> int:
        """Remove our private folder from the device and return how many bytes it held."""
        return self.storage.clean()

    def close(self) -> None:
        """Let go of the device."""
        self.shell.close()

    def execute(self, script: str, timeout_s: float = SHORT_S, repeatable: bool = False) -> Completed:
        """Run a script without input, to its end; DeviceError when it takes too long.

        One that is `repeatable` is run once more where it gets stuck.
        """
        run = execution.execute_repeatable if repeatable else execution.execute
        try:
            return run(self.shell, script, timeout_s)
        except TimeoutError as error:
            raise DeviceError(f"{self.name} did not answer within {timeout_s:g} s") from error

    def _allowed_cpus(self, cpus: Sequence[int]) -> tuple[int, ...]:
        done = self.execute(scripts.allowed_cpus_script(cpus), repeatable=True)
        allowed = scripts.parse_cpu_list(done.stdout)
        if cpus and set(allowed) != set(cpus):
            why = done.stderr.strip().splitlines()[-1:] or [f"it may use {sorted(allowed)} then"]
            every = scripts.parse_cpu_list(
                self.execute(scripts.allowed_cpus_script(()), repeatable=True).stdout
            )
            raise DeviceError(
                f"cannot run on CPUs {sorted(cpus)} of {self.name} ({why[0]}); allowed there: {sorted(every)}"
            )
        return allowed

    def _imports(self, python: str, runtime: str) -> bool:
        module = MODULES.get(runtime, runtime)
        code = f"import {module}" if module else "pass"
        script = f"{scripts.quoted(python)} -c {scripts.quoted(code)}"
        return self.execute(script, IMPORT_S).exit_code == 0


class _MarkedChannel:
    """A channel whose close also kills what carries its mark."""

    def __init__(self, channel: Channel, kill: Callable[[], None]) -> None:
        self._channel, self._kill, self._closed = channel, kill, False
        self.send = channel.send
        self.end_input = channel.end_input
        self.receive = channel.receive
        self.wait = channel.wait
        self.last_words = channel.last_words

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._channel.close()
        self._kill()
