"""Debian's adb client with a server of its own."""

import os
import socket
import subprocess
from pathlib import Path


class Adb:
    """Debian's adb with a private server; `home` holds its keys."""

    def __init__(self, program: str, home: Path) -> None:
        self.program = program
        self.home = home
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "ANDROID_ADB_SERVER_PORT": str(self.port),
        }

    def __call__(self, *arguments: object, input: bytes | None = None, timeout: float = 30.0):
        command = [self.program, *map(str, arguments)]
        return subprocess.run(
            command, env=self.environment, input=input, capture_output=True, timeout=timeout
        )
