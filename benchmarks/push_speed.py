"""How fast files get to a phone, beside the bare clients of the same links, on the stand-in phone.

Each round sends the same random file once by each of five senders, in an order that rotates: through an
adb server our client, adbutils and `adb push`; straight to the daemon our client and adb-shell, whose
socket gets TCP_NODELAY as ours has. Printed are medians, and the ratio of ours to the bare client round by
round: its median, with a 95% bootstrap interval. Our push also has the device compute the file's SHA-256:
on this phone an emulated processor does that, so its time stands in a line of its own, and says nothing
about a phone. Last, an artifact's files are pushed twice, and the bytes that went are counted.

    python benchmarks/push_speed.py [--mebibytes 64] [--rounds 9] [--json]
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from compiler.device import Device
from devices import open_device
from tests.standin_phone import AdbServer, Phone, running_adb_server, running_phone

REMOTE = "/data/local/tmp/push_speed"
RESAMPLES = 2000
BARE = {"server": ("adbutils", "adb push"), "direct": ("adb-shell",)}


def senders(
    phone: Phone, server: AdbServer, file: Path, ways: dict[str, Device]
) -> dict[str, Callable[[], object]]:
    """Return what sends the file once, by name."""
    import adbutils
    from adb_shell.adb_device import AdbDeviceTcp

    bare = adbutils.AdbClient(port=server.port).device(phone.serial)
    shell = AdbDeviceTcp("127.0.0.1", phone.port, default_transport_timeout_s=60)
    shell.connect()
    shell._io_manager._transport._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return {
        "ours server": lambda: transfer(ways["server"], file),
        "adbutils": lambda: bare.sync.push(str(file), REMOTE),
        "adb push": lambda: subprocess.run(
            [server.adb, "-P", str(server.port), "-s", phone.serial, "push", file, REMOTE],
            check=True,
            capture_output=True,
            env=server.env(),
        ),
        "ours direct": lambda: transfer(ways["direct"], file),
        "adb-shell": lambda: shell.push(str(file), REMOTE, read_timeout_s=60),
    }


def opened(phone: Phone, server: AdbServer, cache: Path) -> dict[str, Device]:
    """Return our devices by way."""
    specs = {"server": f"adb:server@{server.port}:{phone.serial}", "direct": f"adb:direct:{phone.serial}"}
    return {way: open_device(spec, cache) for way, spec in specs.items()}


def transfer(device: Device, file: Path) -> None:
    """Send a file as our push does, without what comes before and after."""
    block = device.shell.block
    with file.open("rb", buffering=0) as stream:
        device.shell.send(iter(lambda: stream.read(block), b""), REMOTE, 0o600)


def rounds(senders: dict[str, Callable[[], object]], count: int) -> dict[str, list[float]]:
    """Return the seconds of each sender, round by round."""
    names, seconds = list(senders), {name: [] for name in senders}
    for turn in range(count + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            senders[name]()
            if turn:  # the first round warms everything up
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(ours: list[float], bare: list[float]) -> tuple[float, float, float]:
    """Return the median of the speeds' ratios, and the interval's ends."""
    ratios = [b / o for o, b in zip(ours, bare, strict=True)]
    draws = random.Random(0)
    medians = sorted(median(draws.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return median(ratios), medians[RESAMPLES // 40], medians[-RESAMPLES // 40]


def pushed_bytes(device: Device, folder: Path) -> list[int]:
    """Push files such as an artifact has twice and return the bytes that went each time."""
    for name, size in (("program.bin", 3 << 20), ("runner.py", 4000), ("io.json", 700)):
        (folder / name).write_bytes(random.randbytes(size))
    send, sent = device.shell.send, []

    def counted(blocks, *rest):
        send((sent.append(len(block)) or block for block in blocks), *rest)

    device.shell.send = counted
    totals = []
    for _ in range(2):
        sent.clear()
        for path in sorted(folder.iterdir()):
            device.push(path)
        totals.append(sum(sent))
    device.shell.send = send
    return totals


def measure(mebibytes: int, count: int) -> dict[str, object]:
    """Start a phone and a server, and return what is printed."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(running_adb_server(folder))
        phone = stack.enter_context(running_phone("--wipe"))
        server.run("connect", phone.serial)
        file = folder / "file"
        file.write_bytes(random.Random(0).randbytes(mebibytes << 20))
        ways = opened(phone, server, folder)
        seconds = rounds(senders(phone, server, file, ways), count)
        artifact = folder / "artifact"
        artifact.mkdir()
        start = time.perf_counter()
        ways["server"].push(file)
        whole = time.perf_counter() - start
        return {
            "mebibytes": mebibytes,
            "mebibytes_per_s": {name: round(mebibytes / median(all_), 1) for name, all_ in seconds.items()},
            "ratios": {
                f"{way} / {bare}": [round(r, 3) for r in ratio(seconds[f"ours {way}"], seconds[bare])]
                for way, bares in BARE.items()
                for bare in bares
            },
            "whole_push_s": round(whole, 2),
            "artifact_bytes": {way: pushed_bytes(device, artifact) for way, device in ways.items()},
        }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mebibytes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        found = measure(arguments.mebibytes, arguments.rounds)
    except ModuleNotFoundError as error:
        sys.exit(f"push_speed needs {error.name}: pip install adbutils 'edgewright[android]'")
    if arguments.json:
        print(json.dumps(found))
        return
    for name, speed in found["mebibytes_per_s"].items():
        print(f"{name:12} {speed:8.1f} MiB/s")
    for name, (middle, low, high) in found["ratios"].items():
        print(f"{name:22} {middle:6.2f}   95% interval {low:.2f} to {high:.2f}")
    print(f"a whole push of {found['mebibytes']} MiB, with the emulated SHA-256: {found['whole_push_s']} s")
    for way, (first, second) in found["artifact_bytes"].items():
        print(f"an artifact by {way}: {first} bytes, and again: {second} bytes")


if __name__ == "__main__":
    main()
