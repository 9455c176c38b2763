"""The stand-in phone from this side: stopped and started again like one whose cable was pulled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

PHONE = Path(__file__).parents[1] / "standin" / "phone"
FOLDER = "data/local/tmp"


@dataclass
class StandIn:
    """One phone of the kit in `kit`; its port stays the same over stops and starts."""

    kit: Path
    port: int = 0
    options: tuple[str, ...] = field(default=())
    pid: int = 0

    def start(self, *options: str) -> None:
        """Start it with options, those of the last start where none are given; /data is kept."""
        self.options = options or self.options
        said = self._phone("start", *self.options)
        self.port, self.pid = json.loads(said)["port"], json.loads(said)["pid"]

    def unplug(self) -> None:
        """Kill adbd and all its processes, now: its first process, which takes them along."""
        os.kill(self.pid, signal.SIGKILL)

    def stop(self) -> None:
        """End it, and wait until it is gone."""
        self._phone("stop")

    def forget(self) -> None:
        self._phone("stop", "--wipe")

    def set(self, **values: object) -> None:
        """Change what the phone answers."""
        self._phone("set", *(f"{key}={value}" for key, value in values.items()))

    @property
    def data(self) -> Path:
        """Return its /data/local/tmp, as this machine sees it; not with --space."""
        return self.kit / "phones" / str(self.port) / FOLDER

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _phone(self, verb: str, *arguments: str) -> str:
        command = [PHONE, verb, "--dir", self.kit, "--port", str(self.port), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
