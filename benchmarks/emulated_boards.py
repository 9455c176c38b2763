"""Which form of a low-rank pair runs in fewer instructions on emulated cores: merged, or kept factored.

A pair of linear layers n -> r -> n is exactly one n -> n matrix. For each rank its two forms are measured as
programs on each emulated core, and the merge engine decides by them; the table shows both counts and
the decision. Counts are instructions (emulated), not times: they compare forms on one core.

    python benchmarks/emulated_boards.py [--target litert] [--width 64] [--tokens 8] [--ranks 24,28,32]
        [--cores cortex-a76,cortex-a53] [--database FILE]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from compiler.cost.latency_table import LatencyTable
from edgewright.calibration import calibrate
from edgewright.models import load_model
from edgewright.recipe import prior_of
from edgewright.stages import prepare
from profiles import load_profile
from targets import get_target


def pair(width: int, rank: int) -> nn.Module:
    """Return the pair, with seeded weights."""
    torch.manual_seed(rank)
    return nn.Sequential(nn.Linear(width, rank), nn.Linear(rank, width)).eval()


def decided(module: nn.Module, x: torch.Tensor, target: str, table: LatencyTable | None) -> str:
    """Return the form that the engine emits, with the figures it decided by."""
    done = prepare(load_model(module, (x,)), table=table, prior=prior_of(get_target(target)))
    forms = done.graph.histogram().get("aten.linear.default", 0)
    return "merged" if forms == 1 else "factored"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="litert")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--ranks", default="24,28,32")
    parser.add_argument("--cores", default="cortex-a76,cortex-a53")
    parser.add_argument("--database", default="sqlite://")
    given = parser.parse_args()
    x = torch.randn(given.tokens, given.width)
    print("| core | rank | form | kernels, instructions (emulated) |\n|---|---|---|---|")
    for core in given.cores.split(","):
        profile = load_profile(f"emulated-{core}")
        for rank in map(int, given.ranks.split(",")):
            module = pair(given.width, rank)
            done = calibrate(
                [module],
                profile,
                f"emulated:{core}",
                given.target,
                (x,),
                database=given.database,
                decide=("merge",),
                allow_unstable=True,
            )
            form = decided(module, x, given.target, done.table if done.table.entries else None)
            known = [(k.text, done.table.entry(k)) for k in done.outcomes]
            figures = "; ".join(f"{_short(text)} {entry.median:,.0f}" for text, entry in known if entry)
            print(f"| {core} | {rank} | {form} | {figures} |", flush=True)


def _short(text: str) -> str:
    return text if len(text) < 60 else text[:57] + "..."


if __name__ == "__main__":
    main()
