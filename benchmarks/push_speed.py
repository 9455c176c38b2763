"""Push speed to a phone: ours beside the bare client of the same way, on the same run.

Through the adb server the peer is the adb program (`adb push`), straight to the daemon it is adb-shell's
`push`. Files are sent in turn, each client its own; the best of the turns counts, and the table gives
the transfer alone (`send`) and a whole `push`, which also hashes, compares on the device and names. On the
stand-in phone the whole push is dominated by emulated sha256sum; its figures are no phone's.

    python benchmarks/push_speed.py [--megabytes N] [--turns N]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from devices.shell.storage import blocks_of
from devices.transports.adb.address import parse_address
from devices.transports.adb.choice import open_phone

sys.path.insert(0, str(Path(__file__).parents[1]))

REMOTE = "/data/local/tmp/speed"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--turns", type=int, default=7)
    given = parser.parse_args()
    from tests.standin_phone import running_adb_server, running_phone

    with tempfile.TemporaryDirectory() as private, running_phone() as phone:
        source = Path(private) / "file"
        source.write_bytes(os.urandom(given.megabytes << 20))
        with running_adb_server(Path(private)) as server:
            server.run("connect", phone.serial)
            ways = {
                "adb server": _ours(f"server@{server.port}:{phone.serial}", source),
                "direct": _ours(f"direct:{phone.serial}", source),
            }
            peers = {
                "adb server": lambda: server.run("-s", phone.serial, "push", str(source), REMOTE),
                "direct": _adb_shell(phone.port, source),
            }
            _print(ways, peers, given)


def _print(ways: dict[str, tuple[Callable, Callable]], peers: dict[str, Callable], given) -> None:
    print("| way | peer MB/s | our send MB/s | of the peer | our whole push MB/s |\n|---|---|---|---|---|")
    for way, (send, push) in ways.items():
        best = {name: 1e9 for name in ("peer", "send", "push")}
        for _ in range(given.turns):
            for name, action in (("peer", peers[way]), ("send", send), ("push", push)):
                best[name] = min(best[name], _seconds(action))
        speed = {name: given.megabytes * 1.048576 / seconds for name, seconds in best.items()}
        share = speed["send"] / speed["peer"]
        print(f"| {way} | {speed['peer']:.0f} | {speed['send']:.0f} | {share:.0%} | {speed['push']:.0f} |")


def _ours(address: str, source: Path) -> tuple[Callable, Callable]:
    device = open_phone(parse_address(address))
    size = source.stat().st_size

    def send() -> None:
        device.shell.send(blocks_of(source, 0, size, device.shell.block), REMOTE, 0o600)

    def push() -> None:
        device.clean()
        device.push(source)

    return send, push


def _adb_shell(port: int, source: Path) -> Callable:
    from adb_shell.adb_device import AdbDeviceTcp

    device = AdbDeviceTcp("127.0.0.1", port, default_transport_timeout_s=60)
    device.connect(auth_timeout_s=5)
    return lambda: device.push(str(source), REMOTE)


def _seconds(action: Callable) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
