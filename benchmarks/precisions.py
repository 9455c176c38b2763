"""What each precision of a plan buys on this machine, call by call and runtime by runtime.

A call of a published architecture's shape is lowered in float32 and in each precision that the target has
for it, between float values: the conversions at its borders are in the time, as they are where its
neighbours stay in float. All programs of a call are measured interleaved in one run, with paired ratios and
their 95% intervals. Cells hold float32 ÷ the precision, above 1 where the precision is faster, and in
brackets the share of float32's bytes that the program takes.

    python benchmarks/precisions.py [TARGET ...] [--work DIR] [--json FILE] [--write]

`--write` puts the tables into docs/precisions.md. Programs and readings are kept in DIR, so that a run that
was cut short goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from shared import page

from compiler.compress.kernel_choices import precision_choices
from compiler.cost.kernel import Kernel, TensorSpec, kernel_call, kernel_graph
from compiler.errors import UnsupportedModelError
from compiler.target import FLOAT
from devices import open_device
from devices.benchmark import Candidate, measure
from devices.database import MeasurementDatabase
from devices.statistics import ratio
from edgewright.kernel_programs import Bench, kernel_candidate
from profiles import load_profile
from targets import get_target, list_targets


def linear(rows: int, inputs: int, outputs: int) -> Kernel:
    """Return a linear layer on some rows."""
    x, w = _spec(rows, inputs), _spec(outputs, inputs, constant=True)
    return kernel_call("aten.linear.default", {"input": x, "weight": w})


def conv(channels: int, outputs: int, size: int, kernel: int, groups: int = 1) -> Kernel:
    """Return a convolution that keeps the size of its image."""
    x = _spec(1, channels, size, size)
    w = _spec(outputs, channels // groups, kernel, kernel, constant=True)
    options = {"padding": [kernel // 2] * 2, "groups": groups}
    return kernel_call("aten.conv2d.default", {"input": x, "weight": w, **options})


def _spec(*shape: int, constant: bool = False) -> TensorSpec:
    return TensorSpec(shape, "float32", constant)


CALLS: Mapping[str, Kernel] = {
    "linear 1024 to 1024, 1 row": linear(1, 1024, 1024),
    "linear 2048 to 1000, 1 row": linear(1, 2048, 1000),
    "linear 192 to 768, 197 rows": linear(197, 192, 768),
    "linear 768 to 192, 197 rows": linear(197, 768, 192),
    "conv 3x3, 64 to 64, 56x56": conv(64, 64, 56, 3),
    "conv 1x1, 96 to 576, 14x14": conv(96, 576, 14, 1),
    "depthwise 3x3, 192, 28x28": conv(192, 192, 28, 3, 192),
}


def row(name: str, bench: Bench) -> dict[str, Any]:
    """Return a call's ratios by precision on one target; a precision that it refuses says why."""
    (choice,) = precision_choices(kernel_graph(CALLS[name]), bench.target.precisions)
    candidates: dict[str, Candidate] = {}
    found: dict[str, Any] = {"call": name, "target": bench.target.name, "precisions": {}}
    for option in choice.options:
        try:
            (kernel,) = option.kernels
            candidates[option.name] = kernel_candidate(kernel, bench)
        except UnsupportedModelError as error:
            print(f"{name} in {option.name}: {error}", file=sys.stderr)
            found["precisions"][option.name] = {"refused": str(error)}
    readings = measure(list(candidates.values()), bench.device, bench.profile, bench.database)
    base = readings[0]
    for option_name, candidate, reading in zip(candidates, candidates.values(), readings, strict=True):
        paired = ratio(base.rounds, reading.rounds)
        found["precisions"][option_name] = {
            "median_us": reading.statistics.median / 1e3,
            "stable": reading.stable,
            "float_over_this": [paired.value, paired.low, paired.high],
            "bytes": _bytes(candidate),
        }
    return found


def _bytes(candidate: Candidate) -> int:
    return sum(path.stat().st_size for path in candidate.spec.files.values() if path.suffix != ".py")


def table(target: str, found: Sequence[dict[str, Any]]) -> str:
    """Return a target's calls as a Markdown table."""
    names = list(dict.fromkeys(p for r in found for p in r["precisions"] if p != FLOAT))
    lines = [f"| call | float32, us | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
    for r in found:
        base = r["precisions"][FLOAT]
        cells = [_cell(r["precisions"].get(name), base["bytes"]) for name in names]
        mark = "" if base["stable"] else " (unstable)"
        lines.append(f"| {r['call']} | {base['median_us']:.0f}{mark} | {' | '.join(cells)} |")
    return "\n".join([f"## {target}", "", *lines])


def _cell(entry: Mapping[str, Any] | None, whole: int) -> str:
    if entry is None:
        return "no kernel"
    if "refused" in entry:
        return "refused"
    value, low, high = entry["float_over_this"]
    mark = "" if entry["stable"] else " unstable"
    return f"{value:.2f} [{low:.2f}, {high:.2f}] ({entry['bytes'] / whole:.2f}){mark}"


def main() -> None:
    """Lower, measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("targets", nargs="*", default=list_targets())
    parser.add_argument("--work", type=Path, default=Path("build/precisions"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true", help="write docs/precisions.md")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    found, device, profile = [], open_device("local"), load_profile("host")
    with MeasurementDatabase(f"sqlite:///{arguments.work / 'measurements.sqlite'}") as database:
        for target in arguments.targets:
            bench = Bench(get_target(target), profile, device, database, arguments.work / "kernels")
            for name in CALLS:
                print(f"{target}: {name}", file=sys.stderr)
                found.append(row(name, bench))
    if arguments.json:
        document = {"schema": "edgewright.benchmark.precisions/1", "rows": found}
        arguments.json.write_text(json.dumps(document, indent=1))
    text = "\n\n".join(table(t, [r for r in found if r["target"] == t]) for t in arguments.targets)
    print(text)
    if arguments.write:
        page.write("precisions", "What a precision buys", str(__doc__), text)


if __name__ == "__main__":
    main()
