"""A PostgreSQL server of our own: Debian's program, as an unprivileged user, on a socket in a folder."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PATIENCE_S = 60
PROGRAMS = "/usr/lib/postgresql"
# A server refuses to run as root. Debian's containers have this user whatever else they have.
UNPRIVILEGED = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
OURS = ("-U", "edgewright")


@dataclass
class Server:
    """A running server; each call of `database` makes a new, empty database."""

    programs: Path
    folder: Path
    process: subprocess.Popen
    names: Iterator[int] = field(default_factory=itertools.count)

    def database(self) -> str:
        """Make a database and return its URL."""
        name = f"test{next(self.names)}"
        self.sql("postgres", f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, name: str) -> str:
        return f"postgresql://edgewright@/{name}?host={self.folder}"

    def sql(self, database: str, statement: str) -> str:
        """Run a statement by the server's own client and return what it printed."""
        command = [self.programs / "psql", "-h", self.folder, *OURS, "-d", database, "-qtAc", statement]
        done = subprocess.run(command, capture_output=True, text=True)
        return (done.stdout if done.returncode == 0 else done.stderr).strip()

    def restart(self) -> None:
        """Stop the server as an administrator would and start it again; connections break."""
        _stop(self.process)
        self.process = _start(self.programs, self.folder)


def find_programs() -> Path | None:
    """Return the folder of the newest server's programs, installed where that is possible; None otherwise."""
    if not _installed() and os.getuid() == 0 and shutil.which("apt-get"):
        # Run level 1: Debian starts no service of its own.
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        subprocess.run(["apt-get", "update", "-qq"], check=True, env=quiet)
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "postgresql"]
        subprocess.run(install, check=True, env=quiet, stdout=subprocess.DEVNULL)
    return max(_installed(), default=None, key=lambda path: int(path.parent.name))


def _installed() -> list[Path]:
    return [path for path in Path(PROGRAMS).glob("*/bin") if (path / "initdb").exists()]


@contextmanager
def serve(programs: Path) -> Iterator[Server]:
    """Yield a running server and leave nothing of it behind."""
    folder = Path(tempfile.mkdtemp(prefix="edgewright-pg-", dir="/tmp"))  # a socket's path must be short
    try:
        if UNPRIVILEGED:
            shutil.chown(folder, UNPRIVILEGED["user"], UNPRIVILEGED["group"])
        made = ["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", *OURS]
        _run([programs / "initdb", "-D", folder / "data", *made], folder)
        server = Server(programs, folder, _start(programs, folder))
        try:
            yield server
        finally:
            _stop(server.process)
    finally:
        shutil.rmtree(folder)


def _start(programs: Path, folder: Path) -> subprocess.Popen:
    options = ["-k", folder, "-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=50"]
    with (folder / "log").open("ab") as log:
        command = [programs / "postgres", "-D", folder / "data", *options]
        # It ends with us even where we are killed: the signal is for whoever starts it to ask for.
        guarded = ["setpriv", "--pdeathsig", "INT", *command]
        process = subprocess.Popen(guarded, cwd=folder, stdout=log, stderr=log, **UNPRIVILEGED)
    deadline = time.monotonic() + PATIENCE_S
    ready = [programs / "pg_isready", "-q", "-h", folder, *OURS, "-d", "postgres"]
    while subprocess.run(ready).returncode != 0:
        assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.05)
    return process


def _stop(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGINT)  # "fast": break connections, then end in order
    process.wait(PATIENCE_S)


def _run(command: Sequence[object], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, **UNPRIVILEGED)
    assert done.returncode == 0, done.stderr
