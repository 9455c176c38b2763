"""Where a structured feed-forward network is faster than a dense one, and whether we take the faster.

For each kind of structure (LowRank, BlockDense, BlockShuffle; arXiv 2406.16450), width, share of the dense
parameters and token count, three forms of one network, linear - GELU - linear with a hidden layer four
times as wide, run interleaved through ExecuTorch on this machine:

    dense        every structured matrix multiplied out, the weights found by probing it with the identity
    structured   the factors as they are
    ours         the merge engine's choice, by kernels and whole programs measured here (with --prior,
                 by the prior)

Each form is one program with a method for each token count, as `edgewright compile --tokens` writes it.
The last columns are the paired ratio of ours to whichever of the other two has the lower median, with
its 95% interval, and a verdict: slower where the interval lies above 1 by more than the noise given.

    python benchmarks/structured_ffn.py [KIND ...] [--widths W ...] [--quick] [--prior]
        [--work DIR] [--json FILE] [--write]

`--write` puts the table into docs/structured_ffn.md. Programs and finished cells are kept in DIR, so
that a run that was cut short goes on where it stopped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from shared import page
from torch import nn

WIDTHS, TOKENS, SHARES = (512, 1024, 2048), (1, 4, 16, 64, 256), (32, 63)
FORMS = ("dense", "structured", "ours")
EXPANSION = 4
MULTIPLE = 16  # ranks are rounded to it
NOISE = 0.03  # two runs of one program, in processes of their own, differ by as much
LEAST_PAIRS = 5  # of clean rounds, for an interval
SLOWER = "slower"
SEED = 3


class LowRank(nn.Module):
    """`U V x + b`, the rank by the share of parameters: R (in + out) = share in out."""

    def __init__(self, inner: int, outer: int, share: float) -> None:
        """Make the factors of a layer from `inner` to `outer` features."""
        super().__init__()
        rank = _rank(share, inner * outer, inner + outer)
        self.down, self.up = nn.Linear(inner, rank, bias=False), nn.Linear(rank, outer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output, float32[..., outer]."""
        y: torch.Tensor = self.up(self.down(x))
        return y


class BlockDense(nn.Module):
    """`L blkdiag(B) x + b` with b blocks: R (out + in / b) = share in out."""

    def __init__(self, inner: int, outer: int, share: float) -> None:
        """Make the factors of a layer from `inner` to `outer` features."""
        super().__init__()
        self.count = _blocks(share)
        rank = _rank(share, inner * outer, outer + inner // self.count)
        self.blocks = _parameter(self.count, rank // self.count, inner // self.count)
        self.up = nn.Linear(rank, outer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output, float32[..., outer]."""
        y: torch.Tensor = self.up(_blockwise(x, self.blocks).reshape(*x.shape[:-1], -1))
        return y


class BlockShuffle(nn.Module):
    """Two block-diagonal factors with a shuffle between (Monarch), + b: 5 / (4 blocks) of the dense."""

    def __init__(self, inner: int, outer: int, share: float) -> None:
        """Make the factors of a layer from `inner` to `outer` features."""
        super().__init__()
        count, middle = _blocks(share), min(inner, outer)
        self.first = _parameter(count, middle // count, inner // count)
        self.second = _parameter(count, outer // count, middle // count)
        self.bias = nn.Parameter(torch.zeros(outer))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output, float32[..., outer]."""
        count = len(self.first)
        y = _blockwise(x, self.first).reshape(-1, count * self.first.shape[1])
        y = y.reshape(len(y), -1, count).transpose(1, 2)  # the shuffle: feature r L + l goes to block l
        y = torch.bmm(y.transpose(0, 1), self.second.transpose(1, 2)).permute(1, 2, 0)
        return y.reshape(*x.shape[:-1], -1) + self.bias


KINDS = {kind.__name__: kind for kind in (LowRank, BlockDense, BlockShuffle)}


def _rank(share: float, dense: int, each: int) -> int:
    return max(MULTIPLE, round(share * dense / each / MULTIPLE) * MULTIPLE)


def _blocks(share: float) -> int:
    return 2 if share > 0.5 else 4


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) * shape[-1] ** -0.5)


def _blockwise(x: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """Return each block of features times its own matrix, float32[tokens, blocks, features]."""
    parts = x.reshape(-1, len(blocks), blocks.shape[-1]).transpose(0, 1)
    return torch.bmm(parts, blocks.transpose(1, 2)).transpose(0, 1)


@dataclass(frozen=True)
class Network:
    """What is compiled three times: the `share` is the percentage of the dense parameters."""

    kind: str
    width: int
    share: int

    @property
    def name(self) -> str:
        """A name for its folder."""
        return f"{self.kind}_{self.width}_{self.share}"

    def module(self, form: str) -> nn.Sequential:
        """Return the network in its structured form, or dense."""
        torch.manual_seed(SEED)
        sizes = [(self.width, EXPANSION * self.width), (EXPANSION * self.width, self.width)]
        first, second = (KINDS[self.kind](*size, self.share / 100) for size in sizes)
        for layer in (first, second):
            nn.init.normal_(next(p for n, p in layer.named_parameters() if n.endswith("bias")))
        layers = [first, nn.GELU(), second]
        if form == "dense":
            layers = [probed(first, sizes[0][0]), nn.GELU(), probed(second, sizes[1][0])]
        return nn.Sequential(*layers).eval()


def probed(layer: nn.Module, inner: int) -> nn.Linear:
    """Return an affine layer as one matrix: `b = f(0)`, `W = f(I) - f(0)`, in float64 and cast once."""
    with torch.no_grad():
        layer = layer.double()
        bias = layer(torch.zeros(1, inner, dtype=torch.float64))[0]
        weight = (layer(torch.eye(inner, dtype=torch.float64)) - bias).T
        dense = nn.Linear(inner, len(bias))
        dense.weight.copy_(weight)
        dense.bias.copy_(bias)
    return dense


def programs(network: Network, tokens: Sequence[int], work: Path, prior: bool) -> dict[str, Any]:
    """Return the artifact of each form, built where it is not there."""
    from edgewright.artifact import is_ours, read_artifact

    folders = {form: work / network.name / form for form in FORMS}
    for form, folder in folders.items():
        if not is_ours(folder):
            print(f"building {network.name} ({form})", file=sys.stderr)
            _build(network, form, tokens, folder, work, prior)
    return {form: read_artifact(folder) for form, folder in folders.items()}


def _build(network: Network, form: str, tokens: Sequence[int], folder: Path, work: Path, prior: bool) -> None:
    from edgewright.compilation import build
    from edgewright.models.tokens import load_methods
    from edgewright.recipe import Recipe, resolve
    from edgewright.stages import canonicalise, merged

    module, example = network.module(form), torch.randn(1, 1, network.width)
    sources = [canonicalise(m, name) for name, m in load_methods(module, example, tokens).items()]
    if form == "ours":
        table = None if prior else _table(module, network.width, tokens, work)
        sources = [merged(source, table) for source in sources]
    build(sources, Recipe(*resolve("host", "executorch")), folder)


def _table(module: nn.Module, width: int, tokens: Sequence[int], work: Path) -> Any:
    """Return the latency table with the kernels that the network's open choices need."""
    from edgewright.calibration import calibrate

    examples = [torch.randn(1, count, width) for count in tokens]
    done = calibrate(
        [torch.export.export(module, (example,)) for example in examples],
        target="executorch",
        database=_database(work),
        allow_unstable=True,
        decide=("merge",),
        progress=lambda message: print(f"  {message}", file=sys.stderr),
    )
    return done.table if done.table.entries else None


def _database(work: Path) -> str:
    return f"sqlite:///{work / 'measurements.sqlite'}"


def cell(network: Network, tokens: int, built: Mapping[str, Any], work: Path) -> dict[str, Any]:
    """Measure the three forms at one token count, or read the cell where it is done."""
    path = work / network.name / f"t{tokens}.json"
    if not path.exists():
        print(f"measuring {network.name} at {tokens} tokens", file=sys.stderr)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(_measured(network, tokens, built, work)))
        partial.rename(path)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _measured(network: Network, tokens: int, built: Mapping[str, Any], work: Path) -> dict[str, Any]:
    from devices import open_device
    from devices.benchmark import measure
    from devices.database import MeasurementDatabase
    from edgewright.models.tokens import method_name
    from edgewright.profiling import candidate
    from edgewright.recipe import resolve

    target, profile = resolve("host", "executorch")
    method = method_name(tokens)
    candidates = [candidate(built[f], target, profile, f"{network.name} {f}", method) for f in FORMS]
    with MeasurementDatabase(_database(work)) as database:
        runs = dict(zip(FORMS, measure(candidates, open_device("local"), profile, database), strict=True))
    better = min(("dense", "structured"), key=lambda form: runs[form].statistics.median)
    paired, forms = _paired(runs["ours"], runs[better]), _paired(runs["dense"], runs["structured"])
    return {
        **asdict(network),
        "tokens": tokens,
        **{f"{form}_median_ms": run.statistics.median / 1e6 for form, run in runs.items()},
        **{f"{form}_stable": run.stable for form, run in runs.items()},
        **{f"{form}_mb": sum(built[form].manifest["sizes_bytes"].values()) / 1e6 for form in FORMS},
        "ours_form": form_of(built, method),
        "better": better,
        "dense_over_structured": forms,
        "ours_over_better": paired,
    }


def _paired(one: Any, other: Any) -> list[float] | None:
    """Return the ratio of interleaved clean rounds and its interval, None where those are too few."""
    from devices.statistics import ratio

    try:
        found = ratio(one.rounds, other.rounds)
    except ValueError:  # the machine was busy in every round
        return None
    return [found.value, found.low, found.high] if found.rounds >= LEAST_PAIRS else None


def form_of(built: Mapping[str, Any], method: str) -> str:
    """Return which form ours took: that whose operations it has, else a mixture."""
    from edgewright.artifact import method_entry

    def operations(form: str) -> dict[str, int]:
        counts = method_entry(built[form], method)["operations"].items()
        return {op: count["after"] for op, count in counts if count["after"]}

    return next((form for form in FORMS[:2] if operations(form) == operations("ours")), "mixed")


def table(cells: Sequence[dict[str, Any]]) -> str:
    """Return the cells as a Markdown table."""
    lines = [
        "| structure | width | params | tokens | dense ms | structured ms | ours ms | dense ÷ structured "
        "| ours took | ours ÷ better of the two | | MB dense / structured / ours, all token counts |",
        "|" + "---|" * 12,
    ]
    for c in cells:
        times = [f"{c[f'{f}_median_ms']:.3f}{'' if c[f'{f}_stable'] else ' (unsteady)'}" for f in FORMS]
        facts = [c["kind"], c["width"], f"{c['share']}%", c["tokens"], *times]
        forms, ours = (_interval(c[key]) for key in ("dense_over_structured", "ours_over_better"))
        sizes = " / ".join(f"{c[f'{form}_mb']:.1f}" for form in FORMS)
        lines.append(f"| {' | '.join(map(str, [*facts, forms, c['ours_form'], ours, verdict(c), sizes]))} |")
    judged = [verdict(c) for c in cells if c["ours_over_better"]]
    text = f"Of {len(cells)} cells {len(judged)} were judged; in {judged.count(SLOWER)} ours is slower"
    return "\n".join([*lines, "", f"{text} than the better of the two by more than {NOISE:.0%}."])


def verdict(found: Mapping[str, Any]) -> str:
    """Return what a cell says of ours: nothing where it is as fast as the better of the two."""
    if found["ours_over_better"] is None:
        return "not judged: the machine was busy"
    return SLOWER if found["ours_over_better"][1] > 1 + NOISE else ""


def _interval(values: Sequence[float] | None) -> str:
    return "-" if values is None else "{:.2f} [{:.2f}, {:.2f}]".format(*values)


def main() -> None:
    """Build, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", help=f"{', '.join(KINDS)}; all by default")
    parser.add_argument(
        "--quick", action="store_true", help="width 512, 32%% of the parameters, 1 and 64 tokens only"
    )
    parser.add_argument(
        "--prior", action="store_true", help="choose by the roofline prior, without calibration"
    )
    parser.add_argument("--widths", nargs="+", type=int, choices=WIDTHS, default=WIDTHS)
    parser.add_argument("--work", type=Path, default=Path("out/structured_ffn"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true", help="write docs/structured_ffn.md")
    arguments = parser.parse_args()
    if unknown := set(arguments.kinds) - set(KINDS):
        parser.error(f"no such kind: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    widths, tokens, shares = (
        ((512,), (1, 64), (32,)) if arguments.quick else (arguments.widths, TOKENS, SHARES)
    )
    work = (
        arguments.work / ("quick" if arguments.quick else "full") / ("prior" if arguments.prior else "table")
    )
    work.mkdir(parents=True, exist_ok=True)
    cells = []
    for kind, width, share in itertools.product(arguments.kinds or KINDS, widths, shares):
        network = Network(kind, width, share)
        built = programs(network, tokens, work, arguments.prior)
        cells += [cell(network, count, built, work) for count in tokens]
    if arguments.json:
        document = {"schema": "edgewright.benchmark.structured_ffn/1", "noise": NOISE, "cells": cells}
        arguments.json.write_text(json.dumps(document, indent=1))
    text = table(cells)
    print(text)
    if arguments.write:
        page.write("structured_ffn", "Structured feed-forward networks", str(__doc__), text)


if __name__ == "__main__":
    main()
