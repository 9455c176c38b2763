"""Spoiled `.onnx`, `.pt2` and manifest files through the command line: clean errors, nothing else.

    python -m tests.fuzz.run [--cases 10000] [--seed 0] [--jobs N] [--only KIND:NUMBER ...] [--work DIR]

A case is a valid file spoiled by its number (`tests/fuzz/mutate.py`), and `edgewright explain` on it in a process
with bounded memory. It may succeed, or end with exit code 2 to 8 and one line; a traceback, exit
code 1, a crash, more than a minute, more memory than the bound, or a file that was not there before
are findings. The run ends with 1 where there is one. What is done is kept in DIR.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.fuzz.mutate import spoiled

KINDS = ("onnx", "pt2", "manifest")
SECONDS = 60
MEMORY = 3 * 2**30  # bytes of data a case may take beyond what torch itself has mapped
BATCH = 40  # cases of one process
ALLOWED = (0, 2, 3, 4)
SHOWN = 200  # findings printed


def make_bases(folder: Path) -> None:
    """Write the valid files that cases are made from: two of each kind."""
    import torch
    from torch import nn

    import edgewright

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        conv = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
        ).eval()
        text = nn.Sequential(nn.Embedding(20, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU()).eval()
        image, words = torch.randn(1, 3, 8, 8), torch.randint(0, 20, (1, 6))
        for index, (net, example) in enumerate(((conv, image), (text, words))):
            torch.export.save(torch.export.export(net, (example,)), folder / f"{index}.pt2")
            torch.onnx.export(
                net, (example,), folder / f"{index}.onnx", dynamo=True, external_data=False, verbose=False
            )
    artifact = edgewright.compile(conv, inputs=image, out=folder / "artifact")
    (folder / "0.manifest").write_bytes((artifact.folder / "manifest.json").read_bytes())


def case(kind: str, number: int, seed: int, bases: Path, work: Path) -> list[str]:
    """Write a case into `work` and return the arguments of the command that reads it."""
    rng = random.Random(f"{seed} {kind} {number}")
    sources = sorted(bases.glob(f"*.{kind}"))
    data = spoiled(rng.choice(sources).read_bytes(), kind, rng)
    if kind == "manifest":
        shutil.copytree(bases / "artifact", work / "artifact")
        (work / "artifact" / "manifest.json").write_bytes(data)
        return ["explain", str(work / "artifact"), "--json"]
    path = work / f"model.{kind}"
    path.write_bytes(data)
    return ["explain", str(path), "--json"]


def worker(kind: str, numbers: list[int], seed: int, bases: Path, results: Any) -> None:
    """Run cases one after another, telling each before it starts and when it has ended."""
    import torch

    from edgewright.cli.main import main

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    soft = _data_bytes() + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (soft, soft))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the end of the process, whatever it is doing
    sys.stdin = open(os.devnull)  # noqa: SIM115
    for number in numbers:
        results.put((kind, number, None))
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            arguments = case(kind, number, seed, bases, work)
            before = sorted(work.rglob("*"))
            out, told = io.StringIO(), io.StringIO()
            signal.alarm(SECONDS)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(told), contextlib.chdir(folder):
                code = main(arguments)
            signal.alarm(0)
            finding = judged(code, out.getvalue(), told.getvalue(), sorted(work.rglob("*")) == before)
        results.put((kind, number, (code, finding)))


def judged(code: int, out: str, told: str, untouched: bool) -> str:
    """Return what is wrong with how a case ended, '' where nothing is."""
    if code not in ALLOWED:
        return f"exit code {code}: {told.strip().splitlines()[-1] if told.strip() else ''}"[:300]
    if "Traceback" in told or "Traceback" in out:
        return "a traceback"
    if not untouched:
        return "a file that was not there before"
    return "" if _is_document(out) else "no JSON document on stdout"


def _is_document(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _data_bytes() -> int:
    fields = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line
    )
    return int(fields["VmData"].split()[0]) * 1024


def batch(kind: str, numbers: list[int], seed: int, bases: Path) -> Iterator[tuple[int, int, str]]:
    """Yield number, exit code and finding of cases; a process that dies costs the case it died of."""
    context = multiprocessing.get_context("spawn")
    left = list(numbers)
    while left:
        results = context.SimpleQueue()
        process = context.Process(target=worker, args=(kind, left, seed, bases, results))
        process.start()
        running: int | None = None
        while process.is_alive() or not results.empty():
            if results.empty():
                process.join(0.05)
                continue
            _, number, found = results.get()
            if found is None:
                running = number
                continue
            left.remove(number)
            running = None
            yield number, *found
        if running is not None:
            left.remove(running)
            yield running, 1, f"the process ended with {process.exitcode}"
        elif left:
            raise RuntimeError(f"the worker ended with {process.exitcode} before its cases")


def main() -> int:
    """Run the cases and print counts and findings."""
    parser = argparse.ArgumentParser(description="spoiled files through the command line")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[], metavar="KIND:NUMBER")
    parser.add_argument("--work", type=Path, default=Path("out/fuzz"))
    arguments = parser.parse_args()
    bases = (arguments.work / "bases").absolute()
    if not (bases / "0.manifest").exists():
        bases.mkdir(parents=True, exist_ok=True)
        make_bases(bases)
    kept = arguments.work / f"found_{arguments.seed}.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() and not arguments.only else {}
    wanted = [o.split(":") for o in arguments.only] or [
        [KINDS[n % 3], str(n)] for n in range(arguments.cases)
    ]
    by_kind = {k: [int(n) for kind, n in wanted if kind == k and f"{k}:{n}" not in found] for k in KINDS}
    batches = [(k, ns[i : i + BATCH]) for k, ns in by_kind.items() for i in range(0, len(ns), BATCH)]

    def go(task: tuple[str, list[int]]) -> list[tuple[str, tuple[int, str]]]:
        return [(f"{task[0]}:{n}", (code, said)) for n, code, said in batch(*task, arguments.seed, bases)]

    with ThreadPoolExecutor(arguments.jobs) as pool:
        for done, results in enumerate(pool.map(go, batches), 1):
            found.update(results)
            kept.write_text(json.dumps(found))
            sys.stderr.write(f"{done} of {len(batches)} batches\n")
    counts = Counter((key.split(":")[0], code) for key, (code, _) in found.items())
    findings = {key: said for key, (_, said) in found.items() if said}
    lines = [f"{kind}: {count} ended with {code}" for (kind, code), count in sorted(counts.items())]
    lines += [f"{len(found)} cases, {len(findings)} findings"]
    lines += [f"{key}: {said}" for key, said in list(findings.items())[:SHOWN]]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
