"""The emulated Arm board as a device: real aarch64 programs on this machine, under qemu-user.

It shares this machine's files. Its results are an Arm processor's; its times are nobody's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from compiler.device import Completed
from devices.line_session import LineSession
from devices.transports.local import LocalDevice

KIT = Path(__file__).parents[1] / "standin" / "board"


class Board(LocalDevice):
    """One board with a processor and some of the wheels that `board pip` has put into its folder."""

    name = "board"

    def __init__(self, cache: Path, folder: Path, cpu: str, sites: Sequence[str]) -> None:
        """Run on the board in `folder` as `cpu`, with the packages of `sites` to import from."""
        super().__init__(cache)
        self.prefix = (str(KIT), "run", "--dir", str(folder), "--cpu", cpu)
        if sites:
            self.prefix += ("--site", ",".join(sites))

    def interpreter(self, runtime: str) -> str:
        """Return the board's own Python."""
        return "python3"

    def run(
        self, command: Sequence[str], env: Mapping[str, str] | None = None, timeout_s: float = 600.0
    ) -> Completed:
        """Run a command of the board's root, or an aarch64 file, to its end."""
        return super().run((*self.prefix, "--", *command), env, timeout_s)

    def start(self, command: Sequence[str], env: Mapping[str, str], affinity: Sequence[int]) -> LineSession:
        """Start a runner; `affinity` names the board's processors, which are all this machine's one."""
        return super().start((*self.prefix, "--", *command), env, ())
