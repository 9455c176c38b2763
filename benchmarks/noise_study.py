"""How often a verdict on two programs is wrong while something else runs: the protocol, and a mean of 50.

A trial measures two runners of known work (`noise/runner.py`, about a millisecond a run) on one CPU of
this machine, while a competing load on the same CPU is switched on and off at random times
(`noise/load.py`). In `--trials` trials the second does 5% more work, or 5% less; in a third as many
both do the same. Each method names the second faster, slower, or the same, where less than 2% is the
same; the protocol may also say that it cannot tell.

    the protocol    the rounds of `devices.benchmark.measure`, interleaved, those that were throttled
                    or disturbed left out; verdict by `devices.comparison.compare`
    mean of 50      50 runs of one, then 50 of the other, after 5 to warm up; the ratio of their means

A verdict is false when it says anything but what is true; to say nothing is not false. The last column
bounds the share of false verdicts (95%, one-sided, Clopper and Pearson, Biometrika 26, 1934).

    python benchmarks/noise_study.py [--trials N] [--more N] [--no-load] [--work FOLDER] [--write]

Finished trials are kept in FOLDER, one line each, so that a study that was cut short goes on where it
stopped; `--more N` makes N more and ends. `--write` puts the table into docs/noise_study.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import beta
from shared import page

from compiler.device import BenchmarkProtocol, Device, DeviceProfile
from compiler.records import Metric, RunSpec
from devices import open_device
from devices.benchmark import Candidate, measure
from devices.comparison import LEAST, Verdict, compare
from devices.database import MeasurementDatabase
from devices.runner import start_runner
from devices.sampling import take

HERE = Path(__file__).parent
RUNNER, LOAD = HERE / "noise" / "runner.py", HERE / "noise" / "load.py"
TRIALS = 200
BLOCKS, MORE_BLOCKS = 100, 105
LOAD_S = 0.7  # of burning, and of not, in the mean
PROTOCOL = BenchmarkProtocol(
    settle_s=0.0, warmup_s=0.1, warmup_max_s=0.5, round_s=0.05, min_rounds=12, max_rounds=40,
    max_seconds=3.0, target_width=0.01,
)  # fmt: skip
NAIVE_RUNS, NAIVE_WARM = 50, 5
METHODS = ("the protocol", "mean of 50")
TRUTHS = ("5% slower", "5% faster", "the same")
HEADER = ("second program", "method", "trials", "right", "false", "unstable", "share false", "at most (95%)")


def main() -> int:
    """Make the trials that are missing and print the table of all."""
    parser = argparse.ArgumentParser(description="verdicts on two programs under a competing load")
    parser.add_argument("--trials", type=int, default=TRIALS, help="with a difference of 5%%")
    parser.add_argument("--more", type=int, help="make at most so many trials now")
    parser.add_argument("--no-load", action="store_true", help="leave the machine as it is")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "edgewright" / "noise_study")
    parser.add_argument("--write", action="store_true", help="write docs/noise_study.md")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    journal = arguments.work / f"{'quiet' if arguments.no_load else 'load'}.jsonl"
    made = read(journal)
    missing = [n for n in range(arguments.trials + arguments.trials // 3) if n not in made]
    for number in missing[: arguments.more]:
        made[number] = trial(number, truth_of(number), not arguments.no_load)
        with journal.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"number": number, **made[number]}) + "\n")
        print(f"trial {len(made)}: {made[number]}", file=sys.stderr)
    text = table(list(made.values()))
    print(text)
    if arguments.write:
        page.write("noise_study", "Verdicts under a competing load", __doc__ or "", text)
    return 0


def read(journal: Path) -> dict[int, dict[str, Any]]:
    """Return the trials of an earlier run, by number."""
    if not journal.exists():
        return {}
    lines = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    return {line.pop("number"): line for line in lines}


def truth_of(number: int) -> str:
    """Return what is true in a trial: in every fourth both are the same, else slower and faster in turn."""
    place = number % 4
    return TRUTHS[2] if place == 3 else TRUTHS[(place + number // 4) % 2]


def trial(number: int, truth: str, with_load: bool) -> dict[str, Any]:
    """Let both methods judge one pair, under a load of its own."""
    blocks = {"5% slower": (BLOCKS, MORE_BLOCKS), "5% faster": (MORE_BLOCKS, BLOCKS)}
    pair = blocks.get(truth, (BLOCKS, BLOCKS))
    cpu = min(os.sched_getaffinity(0))
    device = open_device("local")
    draw = random.Random(number)
    start = time.monotonic()
    with load(cpu, draw.randrange(2**31)) if with_load else contextlib.nullcontext():
        time.sleep(draw.random() * LOAD_S)
        verdicts = {METHODS[0]: by_protocol(device, pair, cpu), METHODS[1]: by_mean(device, pair, cpu)}
    return {"truth": truth, **verdicts, "seconds": round(time.monotonic() - start, 1)}


@contextlib.contextmanager
def load(cpu: int, seed: int) -> Iterator[None]:
    """Run the competing load; it ends with the pipe to its stdin."""
    command = [sys.executable, str(LOAD), str(cpu), str(seed), str(LOAD_S)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        yield
    finally:
        process.kill()
        process.communicate()


def spec(blocks: int) -> RunSpec:
    """Return how to start a runner of so many blocks."""
    return RunSpec({"runner": RUNNER}, ("{python}", "-S", "{runner}", str(blocks)))


def by_protocol(device: Device, pair: Sequence[int], cpu: int) -> str:
    """Return the protocol's verdict on the second of a pair."""
    profile = DeviceProfile("noise", "", "local", ("hash",), 1, affinity=(cpu,), protocol=PROTOCOL)
    candidates = [
        Candidate(f"{name} of {blocks}", f"{name}", f"{blocks}", "", spec(blocks))
        for name, blocks in zip(("first", "second"), pair, strict=True)
    ]
    with MeasurementDatabase("sqlite://") as database:
        first, second = measure(candidates, device, profile, database)
    return str(compare(first, second).verdict)


def by_mean(device: Device, pair: Sequence[int], cpu: int) -> str:
    """Return the verdict of the ratio of two means of 50, one after the other."""
    first, second = (mean(device, blocks, cpu) for blocks in pair)
    if second > first * (1 + LEAST):
        return Verdict.SLOWER.value
    return Verdict.FASTER.value if first > second * (1 + LEAST) else Verdict.SAME.value


def mean(device: Device, blocks: int, cpu: int) -> float:
    """Return the mean of 50 runs after a few."""
    session = start_runner(device, spec(blocks), (cpu,))
    try:
        take(session, NAIVE_WARM, Metric.WALL)
        return sum(take(session, NAIVE_RUNS, Metric.WALL)[Metric.WALL]) / NAIVE_RUNS
    finally:
        session.close()


def table(made: Sequence[Mapping[str, Any]]) -> str:
    """Return a row for each truth and method, and one for all trials of each method."""
    rows = [HEADER, tuple("---" for _ in HEADER)]
    for truth in (*TRUTHS, "any"):
        chosen = [t for t in made if truth in (t["truth"], "any")]
        rows += [row(truth, method, chosen) for method in METHODS if chosen]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def row(truth: str, method: str, made: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the cells of a method's verdicts on these trials."""
    said = [str(t[method]) for t in made]
    right = sum(
        v == t["truth"].removeprefix("5% ").removeprefix("the ") for v, t in zip(said, made, strict=True)
    )
    unstable = said.count(Verdict.UNSTABLE.value)
    false = len(said) - right - unstable
    most = 1.0 if false == len(said) else float(beta.ppf(0.95, false + 1, len(said) - false))
    counts = (len(said), right, false, unstable)
    return (truth, method, *map(str, counts), f"{100 * false / len(said):.1f}%", f"{100 * most:.1f}%")


if __name__ == "__main__":
    sys.exit(main())
