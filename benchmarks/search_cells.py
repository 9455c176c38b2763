"""What a search makes of small trained networks at three budgets, beside other ways to choose.

Each network of benchmarks/trained, at 0.8, 0.6 and 0.4 times the latency of its merged float32 program, by

    ours           `edgewright search` as it comes: the integer programme on measured latencies
    uniform int8   everything that can be int8 in int8
    NSGA-II, TPE,  the same space, costs, device and readings, the next variant to measure proposed by the
    random         strategy; each measures as many variants as ours did

All variants of a cell are then measured once more, interleaved with the merged float32 program, and run in
their own runtime on held-out samples that no search saw: accuracy, and the KL divergence of their outputs
from the float model's. A way is within the budget where the upper bound its search measured is, and the
second measurement's interval reaches down to the budget. Ours wins a cell where it is within the budget
and its divergence is the lowest of those within it, or within the noise of the lowest (95% bootstrap
interval of the paired difference). A cell that no way can meet is not counted.

    python benchmarks/search_cells.py [MODEL ...] [--budgets 0.8 ...] [--device local --profile host]
        [--target onnxruntime] [--trained DIR] [--work DIR] [--json FILE] [--cross] [--write]

With `--device emulated:cortex-a76 --profile emulated-cortex-a76` times are executed instructions. `--cross`
runs nothing new but compiles the plan found for each device in DIR for each other and measures it there.
`--write` puts the tables of all cells in DIR, of any device, into docs/search_cells.md. Finished searches
and cells are kept in DIR, so that a run that was cut short goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.cells.crossed import Crossing, cross_table, crossed, read_crossing
from benchmarks.cells.judge import Cell, read_cell
from benchmarks.cells.run import BUDGETS, Place, run_cells
from benchmarks.cells.table import table
from benchmarks.shared import page
from benchmarks.trained import trained
from benchmarks.trained.lessons import BY_NAME
from compiler.errors import EdgewrightError


def finished(work: Path) -> list[Cell]:
    """Return all finished cells of a folder, device by device, in the networks' order."""
    found = [read_cell(json.loads(path.read_text())) for path in work.glob("*/*/*/cell.json")]
    order = list(BY_NAME)
    return sorted(found, key=lambda c: (c.device, order.index(c.model), -c.budget))


def page_text(cells: Sequence[Cell], crossings: Sequence[Crossing]) -> str:
    """Return the tables of all cells, one for each device, and of the crossed plans where there are any."""
    devices = dict.fromkeys(cell.device for cell in cells)
    parts = [f"## {device}\n\n" + table([c for c in cells if c.device == device]) for device in devices]
    return "\n\n".join([*parts, *([cross_table(crossings)] if crossings else [])])


def main() -> None:
    """Run what is asked for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help=f"{', '.join(BY_NAME)}; all by default")
    parser.add_argument("--budgets", nargs="+", type=float, default=BUDGETS)
    parser.add_argument("--device", default="local")
    parser.add_argument("--profile", default="host")
    parser.add_argument("--target", default="onnxruntime")
    parser.add_argument("--trained", type=Path, default=Path("out/trained"))
    parser.add_argument("--work", type=Path, default=Path("out/search_cells"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cross", action="store_true", help="each device's plans on the others")
    parser.add_argument("--write", action="store_true", help="write docs/search_cells.md")
    arguments = parser.parse_args()
    if unknown := set(arguments.models) - set(BY_NAME):
        parser.error(f"no such network: {', '.join(sorted(unknown))}; there are {', '.join(BY_NAME)}")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        _run(arguments)
    except EdgewrightError as error:
        sys.exit(f"{error}")
    cells = finished(arguments.work)
    paths = sorted(arguments.work.glob("*/*/*/crossed-*.json"))
    crossings = [read_crossing(json.loads(path.read_text())) for path in paths]
    text = page_text(cells, crossings)
    print(text)
    if arguments.json:
        document = {"schema": "edgewright.benchmark.search_cells/1", "cells": [c.document() for c in cells]}
        arguments.json.write_text(
            json.dumps({**document, "crossed": [c.document() for c in crossings]}, indent=1)
        )
    if arguments.write:
        page.write("search_cells", "Searches under a budget", str(__doc__), text)


def _run(arguments: argparse.Namespace) -> None:
    place = Place(arguments.device, arguments.profile, arguments.target)
    for name in arguments.models or BY_NAME:
        network = trained(BY_NAME[name], arguments.trained)
        if not arguments.cross:
            run_cells(network, arguments.budgets, place, arguments.work)
        for budget in arguments.budgets if arguments.cross else ():
            crossed(network, budget, arguments.work)


if __name__ == "__main__":
    main()
