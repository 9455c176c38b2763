"""Seeded runs through a link that breaks: `python -m tests.faults.run --runs 1000`.

Each run pushes a random file over the real transport, runs a command and a runner whose answers are
a known function, pulls the file, and compares. It may end in the right result, or in DeviceError; a
wrong result, another exception, or a run that does not end is a failure. Afterwards, over a link
without faults, the same push and pull must give the right file: nothing wrong was left behind.

With `--record FILE` runs that were done are not done again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from compiler.errors import DeviceError
from devices import open_device
from tests.faults.adb import Adb
from tests.faults.injection import KINDS
from tests.faults.patience import shorten
from tests.faults.phone import FaultyPhone, faulty_phone
from tests.faults.runner import samples

RUNNER = Path(__file__).with_name("runner.py")
WAYS = ("direct", "server")
LONGEST_S = 2.0  # of one wait in the transport
HANG_S = 60.0  # of a run: more waits in a row than any run has
RIGHT, REFUSED, WRONG, HUNG = "right", "refused", "wrong", "hung"


@dataclass(frozen=True)
class Outcome:
    """How one run ended, and where."""

    seed: int
    way: str
    kind: str
    end: str
    why: str
    struck: int
    seconds: float


@dataclass(frozen=True)
class Bench:
    """What runs are made with: the phone, an adb server of our own, and a scratch folder."""

    phone: FaultyPhone
    adb: Adb
    folder: Path

    def spec(self, way: str, port: int) -> str:
        return f"adb:{way if way == 'direct' else f'server@{self.adb.port}'}:127.0.0.1:{port}"


class WrongResult(Exception):
    """A result was taken that is not the right one."""


def plan(seed: int) -> tuple[str, str, dict[str, float], int]:
    """Return way, kind of fault ("mixed" for all), chances and the packet from which it may strike."""
    random = Random(seed)
    way = WAYS[seed % 2]
    kind = [*KINDS, "mixed"][seed // 2 % (len(KINDS) + 1)]
    chance = random.choice([0.003, 0.01, 0.03, 0.1])
    chances = {kind: chance} if kind in KINDS else dict.fromkeys(KINDS, chance / 4)
    return way, kind, chances, random.choice([0, 1, 2, 5, 10, 20])


def run_seed(bench: Bench, seed: int) -> Outcome:
    """Make the run of a seed."""
    way, kind, chances, after = plan(seed)
    port = bench.phone.live(seed, chances, after)
    started = time.monotonic()
    end, why = judged(lambda: use_phone(bench.spec(way, port), seed, bench.folder, way, bench))
    seconds, struck = time.monotonic() - started, sum(bench.phone.struck().values())
    if end in (RIGHT, REFUSED):
        calm_end, calm_why = judged(
            lambda: keep_file(bench.spec("direct", bench.phone.calm()), seed, bench.folder)
        )
        if calm_end != RIGHT:
            end, why = WRONG, f"afterwards, over a whole link: {calm_why}"
    if way == "server":
        bench.adb("disconnect", f"127.0.0.1:{port}")
    return Outcome(seed, way, kind, end, why, struck, round(seconds, 2))


def judged(work: Callable[[], None]) -> tuple[str, str]:
    """Do work in a thread and say how it ended; one that does not end is left behind."""
    ends: list[tuple[str, str]] = []

    def do() -> None:
        try:
            work()
            ends.append((RIGHT, ""))
        except DeviceError as error:
            ends.append((REFUSED, str(error)))
        except BaseException as error:
            ends.append((WRONG, f"{type(error).__name__}: {error}"))

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    thread.join(HANG_S)
    return ends[0] if ends else (HUNG, f"not over after {HANG_S:g} s")


def use_phone(spec: str, seed: int, folder: Path, way: str, bench: Bench) -> None:
    """Push, run, time and pull; WrongResult where what is given back is not what it must be."""
    random = Random(seed)
    device = open_device(spec, folder / "cache")
    try:
        for content in (random.randbytes(random.choice([0, 1000, 300_000])) for _ in range(2)):
            round_trip(device, content, folder)
        run_command(device, random)
        time_runner(device, seed, random)
    finally:
        device.close()


def keep_file(spec: str, seed: int, folder: Path) -> None:
    """Push and pull the first file of a run again."""
    random = Random(seed)
    device = open_device(spec, folder / "cache")
    try:
        round_trip(device, random.randbytes(random.choice([0, 1000, 300_000])), folder)
    finally:
        device.close()


def round_trip(device, content: bytes, folder: Path) -> None:
    here, back = folder / "here.bin", folder / "back.bin"
    here.write_bytes(content)
    back.unlink(missing_ok=True)
    device.pull(device.push(here), back)
    expect("the file", back.read_bytes(), content)


def run_command(device, random: Random) -> None:
    words, code = [f"{random.random()}" for _ in range(20)], random.randrange(100)
    done = device.run(["sh", "-c", 'printf "%s\\n" "$@"; exit ' + str(code), "sh", *words])
    expect("the output", done.stdout.split("\n"), [*words, ""])
    expect("the exit code", done.exit_code, code)


def time_runner(device, seed: int, random: Random) -> None:
    session = device.start(["python3", device.push(RUNNER), str(seed)], {}, ())
    try:
        expect("the load time", session.ready["load_ns"], seed)
        for number in range(5):
            count = random.randrange(1, 400)
            answer = session.request({"do": "time", "number": number, "iterations": count}, LONGEST_S)
            expect("the samples", answer["wall_ns"], samples(seed, number, count))
    finally:
        session.close()


def expect(what: str, found: object, right: object) -> None:
    if found != right:
        raise WrongResult(f"{what} is {str(found)[:80]!r}, not {str(right)[:80]!r}")


def run_seeds(seeds: list[int], adb_program: str) -> Iterator[Outcome]:
    """Make runs one after the other on a phone of their own; a hung run ends its process's part."""
    shorten(LONGEST_S)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgewright-faults-")))
        phone = stack.enter_context(faulty_phone(folder / "phone"))
        adb = Adb(adb_program, folder)
        stack.callback(adb, "kill-server")
        adb("start-server")
        bench = Bench(phone, adb, folder)
        for seed in seeds:
            yield run_seed(bench, seed)


def table(outcomes: list[Outcome]) -> str:
    """Return what came of the runs, by fault and way."""
    groups: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.kind, outcome.way].append(outcome)
    ends = (RIGHT, REFUSED, WRONG, HUNG)
    lines = [
        f"{'fault':10} {'way':7} {'runs':>5} {'struck':>6} {' '.join(f'{e:>7}' for e in ends)} {'longest':>8}"
    ]
    for (kind, way), group in sorted(groups.items()):
        count = Counter(outcome.end for outcome in group)
        struck, longest = sum(o.struck > 0 for o in group), max(o.seconds for o in group)
        cells = " ".join(f"{count[end]:7}" for end in ends)
        lines.append(f"{kind:10} {way:7} {len(group):5} {struck:6} {cells} {longest:6.1f} s")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=4, help="phones at a time; most of a run is waiting")
    parser.add_argument("--record", type=Path, help="a file of outcomes, one a line, that is gone on with")
    parser.add_argument("--adb", default="adb", help="the adb program whose server is used")
    arguments = parser.parse_args()
    outcomes = read_record(arguments.record)
    done = {outcome.seed for outcome in outcomes}
    wanted = range(arguments.first, arguments.first + arguments.runs)
    outcomes = [outcome for outcome in outcomes if outcome.seed in wanted]
    left = [seed for seed in wanted if seed not in done]
    for outcome in make_runs(left, arguments.jobs, arguments.adb):
        outcomes.append(outcome)
        if arguments.record:
            with arguments.record.open("a") as record:
                record.write(json.dumps(asdict(outcome)) + "\n")
        if outcome.end in (WRONG, HUNG):
            print(outcome, file=sys.stderr, flush=True)
    print(table(outcomes))
    return int(any(outcome.end in (WRONG, HUNG) for outcome in outcomes))


def read_record(path: Path | None) -> list[Outcome]:
    if path is None or not path.exists():
        return []
    return [Outcome(**json.loads(line)) for line in path.read_text().splitlines()]


def make_runs(seeds: list[int], jobs: int, adb_program: str) -> Iterator[Outcome]:
    with ProcessPoolExecutor(jobs) as pool:
        batches = [seeds[start : start + 20] for start in range(0, len(seeds), 20)]
        for batch in as_completed([pool.submit(make_batch, batch, adb_program) for batch in batches]):
            yield from batch.result()


def make_batch(seeds: list[int], adb_program: str) -> list[Outcome]:
    return list(run_seeds(seeds, adb_program))


if __name__ == "__main__":
    sys.exit(main())
