"""A soak: thousands of measurements on several devices at once through a farm, and what is left behind.

Each measurement is whole (push, start, warm-up, rounds, verdict) and cheap: its runner is a shell script that
answers at once, so that what is exercised is everything around the runtime. In the end the database must
hold each measurement once with each of its rounds once; no worker, runner, descriptor or thread may be
left; and the memory of the farm and its workers must be flat: the slope of their resident sets after the
first fifth of the run, by least squares, in KiB for each thousand measurements.

    python benchmarks/soak.py [--measurements 2000] [--device SPEC ...] [--standin N] [--database URL]
        [--json FILE]

By default the devices are `soak:1` and `soak:2`, this machine under two names; `--standin 2` starts two
stand-in phones and measures on those, straight to their daemons. It ends with 1 where something was lost,
doubled or left.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from compiler.device import BenchmarkProtocol, DeviceProfile
from compiler.records import RunSpec
from devices.benchmark import Candidate
from devices.database import MeasurementDatabase
from devices.farm import Job, ProcessFarm
from devices.farm.processes import descendants

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from shared.soak_devices import open_soak

from tests.standin_phone import running_phone

RUNNER = Path(__file__).parent / "shared" / "instant_runner.sh"
ROUNDS = 3
PROTOCOL = BenchmarkProtocol(
    settle_s=0, warmup_s=0, warmup_max_s=0, round_s=0.001, min_rounds=ROUNDS, max_rounds=ROUNDS
)
PROFILE = DeviceProfile("soak", "", "local", ("none",), threads=1, protocol=PROTOCOL)
BATCH = 20
FLAT_KIB = 1024.0  # for each thousand measurements: allocators wander by less
WARM_SHARE = 0.2


def job(series: str, number: int) -> Job:
    """Return the measurement of a number; each is of a series of its own."""
    spec = RunSpec({"runner": RUNNER}, ("sh", "{runner}"))
    digest = hashlib.sha256(RUNNER.read_bytes()).hexdigest()[:16]
    return Job(Candidate(f"{number}", digest, "none", "none", spec, series=f"{series} {number}"), PROFILE)


def soak(devices: list[str], count: int, database: str, cache: Path) -> dict[str, Any]:
    """Measure `count` times over the devices and return what was counted."""
    series = f"soak {time.time_ns()}"
    before = _left()
    start = time.monotonic()
    with ProcessFarm(devices, database, opener=open_soak, cache=cache) as farm:
        sizes = [_sizes()]
        failures: list[str] = []
        for first in range(0, count, BATCH):
            futures = [farm.submit(job(series, n)) for n in range(first, min(first + BATCH, count))]
            farm.drain()
            failures += [str(error) for error in (future.exception() for future in futures) if error]
            sizes.append(_sizes())
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{min(first + BATCH, count)} of {count}")
        reports = farm.devices()
    seconds = time.monotonic() - start
    return {
        "measurements": count,
        "devices": {r.device: {"done": r.done, "faults": r.faults, "out": r.reason} for r in reports},
        "seconds": seconds,
        "failures": failures,
        **_rows(database, series, count),
        "left": {name: value - before[name] for name, value in _left().items()},
        "memory": _memory(sizes),
        "worker_descriptors": [sizes[1]["descriptors"], sizes[-1]["descriptors"]],
    }


def _rows(database: str, series: str, count: int) -> dict[str, int]:
    """Count what the database holds of the series."""
    with MeasurementDatabase(database) as kept:
        found = kept.summaries(f"{series} ")
        times = Counter(one.series for one in found)
        rounds = [[r.index for r in kept.rounds(one.id)] for one in found]
    return {
        "lost": sum(f"{series} {n}" not in times for n in range(count)),
        "doubled": sum(n - 1 for n in times.values()),
        "wrong_rounds": sum(indices != list(range(ROUNDS)) for indices in rounds),
    }


def _left() -> dict[str, int]:
    """Count what of this process could be left over."""
    return {
        "processes": len(descendants(os.getpid())),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "threads": threading.active_count(),
    }


def _workers() -> Iterator[int]:
    for pid in descendants(os.getpid()):
        if b"devices.farm.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
            yield pid


def _sizes() -> dict[str, Any]:
    """Return the resident sets in KiB, the farm's first, and the workers' descriptors."""
    workers = sorted(_workers())
    return {
        "kib": [_resident(pid) for pid in (os.getpid(), *workers)],
        "descriptors": [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in workers],
    }


def _resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def _memory(samples: list[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Return the size and the slope of each process."""
    steady = [s["kib"] for s in samples[max(1, int(len(samples) * WARM_SHARE)) :]]
    table = np.array([kib for kib in steady if len(kib) == len(steady[-1])], dtype=float)
    numbers = np.arange(len(table)) * BATCH / 1000
    slopes = np.polyfit(numbers, table, 1)[0] if len(table) > 2 else np.full(table.shape[1], np.nan)
    return [
        {"mib": last / 1024, "kib_per_1000": slope} for last, slope in zip(table[-1], slopes, strict=True)
    ]


def faultless(found: Mapping[str, Any], flat: bool = True) -> bool:
    """Tell whether nothing was lost, doubled or left, and, unless it was too short to tell, memory flat."""
    first, last = found["worker_descriptors"]
    counts = [len(found["failures"]), found["lost"], found["doubled"], found["wrong_rounds"]]
    steady = not flat or all(one["kib_per_1000"] < FLAT_KIB for one in found["memory"])
    return not any([*counts, *found["left"].values()]) and first == last and steady


def show(found: Mapping[str, Any]) -> None:
    """Print the tables."""
    pace = found["measurements"] / found["seconds"]
    print(f"{found['measurements']} measurements in {found['seconds']:.0f} s, {pace:.1f} a second\n")
    print("| device | done | faults | state |\n|---|---|---|---|")
    for device, its in found["devices"].items():
        print(f"| {device} | {its['done']} | {its['faults']} | {its['out'] or 'works'} |")
    print("\n| failed | lost | doubled | wrong rounds | processes left | descriptors left | threads left |")
    print("|---|---|---|---|---|---|---|")
    left = found["left"]
    counts = [len(found["failures"]), found["lost"], found["doubled"], found["wrong_rounds"], *left.values()]
    print(f"| {' | '.join(map(str, counts))} |")
    print("\n| process | resident, MiB | slope, KiB per 1,000 |\n|---|---|---|")
    for number, one in enumerate(found["memory"]):
        name = f"worker {number}" if number else "farm"
        print(f"| {name} | {one['mib']:.1f} | {one['kib_per_1000']:+.0f} |")
    first, last = found["worker_descriptors"]
    print(f"\nDescriptors of the workers, at the first batch and the last: {first}, {last}")


def main() -> int:
    """Run the soak and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--measurements", type=int, default=2000)
    parser.add_argument("--device", action="append", default=[], help="a device; once for each")
    parser.add_argument("--standin", type=int, default=0, help="so many stand-in phones")
    parser.add_argument("--database", help="a path or URL; a file that is removed afterwards by default")
    parser.add_argument("--json", type=Path, help="write all that was counted here")
    options = parser.parse_args()
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="edgewright-soak-") as folder:
        phones = [stack.enter_context(running_phone()) for _ in range(options.standin)]
        database = options.database or str(Path(folder) / "soak.sqlite")
        devices = [*options.device, *(f"adb:direct:{phone.serial}" for phone in phones)]
        devices = devices or ["soak:1", "soak:2"]
        found = soak(devices, options.measurements, database, Path(folder) / "cache")
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2), encoding="utf-8")
    return 0 if faultless(found) else 1


if __name__ == "__main__":
    sys.exit(main())
