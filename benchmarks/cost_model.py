"""How far off the fitted cost model is on published phone latencies, beside simpler ones.

The data are single operators of 29 networks under TFLite's GPU delegate on three phones, published by others
(`benchmarks/data`). Whole families of networks are held out, in four parts, so that no network is judged by
its relatives. "Operators" are the held-out networks' operators one by one; "networks" are their sums, which
are less than end-to-end times, for the source lists eight kinds of operators only. Shown are the mean
absolute error, the share within 10%, and how many truths the 90% interval holds, where a model gives one.

    fitted     `compiler.cost.fitted`: a Gaussian process in the logarithm of time, jackknife+ intervals
    roofline   the prior's price, times one factor fitted to all operators
    linear     by kind of operator a + b MACs, fitted by least squares of relative errors
    nearest    the measured operator of the same kind with the nearest sizes, times the ratio of the prior

"few-shot" predicts a phone from another's model and a few operators of its own, drawn by seed, five times.

    python benchmarks/cost_model.py [--quick] [--json FILE] [--write]

`--quick` takes one phone, one part and one draw.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from shared import page
from shared.published_kernels import DEVICES, Published, folds, published

from compiler.cost.features import Features, features
from compiler.cost.fitted import FittedModel, Reading, fit
from compiler.cost.kernel import Kernel
from compiler.cost.latency_table import Entry, LatencyTable
from compiler.cost.total import Call, total
from compiler.records import Metric

PARTS = 4
FEW = (5, 10, 20)
DRAWS = 5

Predict = Callable[[Kernel], float | None]


def readings(rows: Sequence[Published], device: str) -> list[Reading]:
    """Return each distinct kernel of rows once, grouped by the network that has it first."""
    found: dict[str, Reading] = {}
    for row in rows:
        us = row.us[device]
        found.setdefault(row.kernel.text, Reading(row.kernel, Entry(us, us, us), row.network))
    return list(found.values())


def seen(kernel: Kernel) -> Features:
    """Return the features of a kernel that has some."""
    found = features(kernel)
    assert found is not None
    return found


def roofline(known: Sequence[Reading]) -> Predict:
    """Return the prior's price times the median ratio."""
    factor = float(np.median([r.entry.median / seen(r.kernel).prior for r in known]))
    return lambda kernel: factor * seen(kernel).prior


def linear(known: Sequence[Reading]) -> Predict:
    """Return a + b MACs by kind, relative least squares."""
    by_kind: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for reading in known:
        found = seen(reading.kernel)
        by_kind[found.kind].append((math.expm1(found.values[1]), reading.entry.median))
    lines = {}
    for kind, points in by_kind.items():
        macs, us = np.array(points).T
        lines[kind] = np.linalg.lstsq(np.stack([1 / us, macs / us], 1), np.ones(len(us)), rcond=None)[0]

    def predict(kernel: Kernel) -> float | None:
        found = seen(kernel)
        line = lines.get(found.kind)
        return None if line is None else max(1e-3, float(line @ (1.0, math.expm1(found.values[1]))))

    return predict


def nearest(known: Sequence[Reading]) -> Predict:
    """Return the nearest operator's time of the same kind, scaled by the prior."""
    pool = [(seen(r.kernel), r.entry.median) for r in known]

    def predict(kernel: Kernel) -> float | None:
        found = seen(kernel)
        same = [(math.dist(f.values, found.values), us / f.prior) for f, us in pool if f.kind == found.kind]
        return min(same)[1] * found.prior if same else None

    return predict


BASELINES = {"roofline": roofline, "linear": linear, "nearest": nearest}


class Score:
    """Errors of one model on one device, operator by operator and network by network."""

    def __init__(self) -> None:
        """Begin with none."""
        self.errors: dict[str, list[float]] = {"operators": [], "networks": []}
        self.held: dict[str, list[bool]] = {"operators": [], "networks": []}

    def add(self, what: str, said: float, truth: float, bounds: tuple[float, float] | None = None) -> None:
        """Add one prediction."""
        self.errors[what].append(abs(said / truth - 1))
        if bounds is not None:
            self.held[what].append(bounds[0] <= truth <= bounds[1])

    def row(self) -> dict[str, dict[str, float | int | None]]:
        """Return the figures."""
        return {
            what: {
                "count": len(errors),
                "mape": float(np.mean(errors)),
                "within_10_percent": float(np.mean(np.array(errors) <= 0.1)),
                "coverage": float(np.mean(self.held[what])) if self.held[what] else None,
            }
            for what, errors in self.errors.items()
        }


def judge_fitted(model: FittedModel, rows: Sequence[Published], device: str, score: Score) -> None:
    """Add the errors of a fitted model on held-out networks."""
    empty = LatencyTable(device, "tflite gpu", 1, Metric.WALL, {})
    for network, own in _networks(rows).items():
        known = [(r, p) for r in own if (p := model.predict(r.kernel)) is not None]
        for row, said in known:
            score.add("operators", said.median, row.us[device], (said.low, said.high))
        whole = total([Call(row.kernel) for row, _ in known], empty, model).entry
        assert whole is not None, network
        score.add("networks", whole.median, sum(r.us[device] for r, _ in known), (whole.low, whole.high))


def judge_baseline(predict: Predict, rows: Sequence[Published], device: str, score: Score) -> None:
    """Add the errors of a baseline on held-out networks."""
    for own in _networks(rows).values():
        known = [(r.us[device], said) for r in own if (said := predict(r.kernel)) is not None]
        for truth, said in known:
            score.add("operators", said, truth)
        score.add("networks", sum(s for _, s in known), sum(t for t, _ in known))


def _networks(rows: Sequence[Published]) -> dict[str, list[Published]]:
    found: dict[str, list[Published]] = defaultdict(list)
    for row in rows:
        found[row.network].append(row)
    return found


def held_out(rows: list[Published], devices: Sequence[str], parts: int) -> list[dict[str, Any]]:
    """Return the errors of every model on every device."""
    found = []
    for device in devices:
        scores = {name: Score() for name in ("fitted", *BASELINES)}
        for number, (learn, held) in enumerate(list(folds(rows, PARTS))[:parts], 1):
            print(f"{device}: part {number} of {parts}", file=sys.stderr)
            known = readings(learn, device)
            judge_fitted(fit(known), held, device, scores["fitted"])
            for name, make in BASELINES.items():
                judge_baseline(make(known), held, device, scores[name])
        found += [{"device": device, "model": name, **score.row()} for name, score in scores.items()]
    return found


def few_shot(rows: list[Published], devices: Sequence[str], draws: int) -> list[dict[str, Any]]:
    """Return the errors on a phone of another's model, moved by a few of its operators."""
    found = []
    learn, held = next(folds(rows, PARTS))
    for source, device in zip(devices, [*devices[1:], devices[0]], strict=True):
        old = fit(readings(learn, source))
        for count in FEW:
            print(f"{source} to {device}: {count} operators", file=sys.stderr)
            moved, alone = Score(), Score()
            for seed in range(draws):
                known = random.Random(seed).sample(readings(learn, device), count)
                judge_fitted(fit(known, other=old), held, device, moved)
                judge_baseline(roofline(known), held, device, alone)
            row = {"source": source, "device": device, "readings": count}
            found += [{**row, "model": "moved", **moved.row()}, {**row, "model": "roofline", **alone.row()}]
    return found


def table(rows: Sequence[dict[str, Any]], heads: Sequence[str]) -> str:
    """Return rows as a Markdown table."""
    titles = [
        *heads,
        *(f"{what}: {x}" for what in ("operators", "networks") for x in ("MAPE", "±10%", "90%")),
    ]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for row in rows:
        cells = [str(row[h]) for h in heads]
        for what in ("operators", "networks"):
            figures = row[what]
            held = figures["coverage"]
            cells += [f"{100 * figures['mape']:.1f}%", f"{100 * figures['within_10_percent']:.0f}%"]
            cells.append("-" if held is None else f"{100 * held:.0f}%")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Fit, judge and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one phone, one part, one draw")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true", help="write docs/cost_model.md")
    arguments = parser.parse_args()
    rows = published()
    devices = DEVICES[:1] if arguments.quick else DEVICES
    first = held_out(rows, devices, 1 if arguments.quick else PARTS)
    second = few_shot(rows, DEVICES[:2] if arguments.quick else DEVICES, 1 if arguments.quick else DRAWS)
    text = (
        f"## Families held out\n\n{table(first, ('device', 'model'))}\n\n"
        f"## Few-shot\n\n{table(second, ('source', 'device', 'readings', 'model'))}"
    )
    if arguments.json:
        document = {"schema": "edgewright.benchmark.cost_model/1", "held_out": first, "few_shot": second}
        arguments.json.write_text(json.dumps(document, indent=1))
    print(text)
    if arguments.write:
        page.write("cost_model", "The fitted cost model on published latencies", str(__doc__), text)


if __name__ == "__main__":
    main()
