"""Predictors and searches on device tables that others measured and published, ours beside simpler ones.

Latency: k programs of a table are measured, the others are predicted (`compiler.cost.transfer`). Beside it
are a look-up table of additive times (non-negative, relative squares), a line in the operations, a random
forest (100 trees) and a Gaussian process (Matérn 3/2, fitted by likelihood) on the same knowledge as numbers,
and where other devices' times are known the ridge regression on their logarithms. "ours + devices" knows
those too. Where programs come in families or under several runtimes, no family and no model is both learnt
from and judged. Cells are Spearman's rank correlation / share within 5% / share within 10%, means over seeds.

"measured again" is how well one reading of a cell predicts another of the same network, written differently:
what is left to chance.

Search: measurements until the best feasible cell is within a gap (medians over runs).

    python benchmarks/published_tables.py [--data DIR] [--seeds N] [--json FILE] [--write]

`--data` is the folder of the tables; what it lacks is left out and named. In `benchmarks/data` is what
its licence lets us keep.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from shared import page
from shared.published import search, tables
from shared.published.latency import Figures, judge
from shared.published_kernels import family

COUNTS = (10, 20, 50, 100)
Make = Callable[[Path], Iterator[tables.Task]]


def sources() -> dict[str, tuple[tuple[str, ...], Callable[..., Iterator[tables.Task]]]]:
    """Return the files that each table is read from, and how."""
    return {
        "NAS-Bench-201": (("nb201_latency.csv",), tables.nas_bench),
        "FBNet": (("fbnet_latency.csv",), tables.fbnet),
        "HAT": (("hat_wmt14ende_cpu_raspberrypi.csv",), tables.hat),
        "synthetic CNNs": (("qed_synth_e2e.csv",), tables.synthetic),
        "CNNs by operators": (
            ("qed_real_e2e.csv", "qed_gpu_ops.csv"),
            partial(tables.operator_sums, family=family),
        ),
        "chipsets": (("aihub_perf.csv",), tables.chipsets),
    }


def latency(data: Path, seeds: int) -> tuple[list[Figures], list[str]]:
    """Return the figures of every table there is, and the names of the files that are missing."""
    found: list[Figures] = []
    missing: list[str] = []
    for files, make in sources().values():
        absent = [name for name in files if not (data / name).exists()]
        missing += absent
        if absent:
            continue
        for task in make(*(data / name for name in files)):
            print(f"{task.table}: {task.device}", file=sys.stderr)
            found += judge(task, COUNTS, seeds)
    return found, missing


def searches(data: Path, seeds: int) -> list[search.Reached]:
    """Return the measurements of every strategy under every budget; none without accuracies."""
    path = data / "nb201_latency.csv"
    if not path.exists():
        return []
    found = []
    for device, budget in search.BUDGETS:
        land = search.landscape(path, device, budget)
        for name in search.MOST:
            print(f"search: {device}, {budget} ms, {name}", file=sys.stderr)
            found += search.reached(land, device, name, seeds)
    return found


def latency_page(rows: Sequence[Figures]) -> str:
    """Return the figures as one Markdown table for each published table."""
    text = []
    for table in dict.fromkeys(r.table for r in rows):
        own = [r for r in rows if r.table == table]
        counts = [k for k in COUNTS if any(r.count == k for r in own)]
        lines = [
            f"## {table}\n",
            f"| device | method | {' | '.join(f'k = {k}' for k in counts)} |",
            "|---" * (2 + len(counts)) + "|",
        ]
        for device, method in dict.fromkeys((r.device, r.method) for r in own):
            cells = {r.count: r for r in own if (r.device, r.method) == (device, method)}
            shown = [_cell(cells[k]) if k in cells else "" for k in counts]
            lines.append(f"| {device.replace('|', ', ')} | {method} | {' | '.join(shown)} |")
        text.append("\n".join(lines))
    return "\n\n".join(text)


def _cell(row: Figures) -> str:
    figures = (row.spearman, row.within_5_percent, row.within_10_percent)
    return " / ".join(f"{x:.3f}" if i == 0 else f"{x:.2f}" for i, x in enumerate(figures))


def search_page(rows: Sequence[search.Reached]) -> str:
    """Return the searches as a Markdown table."""
    names = list(search.MOST)
    lines = [f"| device, budget | best | gap | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"]
    for device, budget, best, gap in dict.fromkeys((r.device, r.budget_ms, r.best, r.gap) for r in rows):
        own = {r.strategy: r.cell for r in rows if (r.device, r.budget_ms, r.gap) == (device, budget, gap)}
        lines.append(
            f"| {device}, {budget:g} ms | {best:.2f} | {gap} | {' | '.join(own[n] for n in names)} |"
        )
    return "## Search\n\n" + "\n".join(lines)


def main() -> None:
    """Judge and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true", help="write docs/published_tables.md")
    arguments = parser.parse_args()
    predicted, missing = latency(arguments.data, arguments.seeds)
    found = searches(arguments.data, arguments.seeds)
    parts = [latency_page(predicted), *([search_page(found)] if found else [])]
    if missing:
        parts.append(f"Left out, for want of files in the folder of the tables: {', '.join(missing)}.")
    text = "\n\n".join(parts)
    if arguments.json:
        rows = {"latency": predicted, "search": found}
        document = {key: [dataclasses.asdict(r) for r in value] for key, value in rows.items()}
        document |= {"schema": "edgewright.benchmark.published_tables/1"}
        arguments.json.write_text(json.dumps(document, indent=1))
    print(text)
    if arguments.write:
        page.write("published_tables", "Published device tables", str(__doc__), text)


if __name__ == "__main__":
    main()
