"""Large depthwise kernels: the same block in four equal forms, on each runtime.

The cheapest form of a large depthwise kernel is not the same everywhere: XNNPACK has no depthwise
microkernel above 25 taps, ONNX Runtime does not mind. For each block and model, BatchNorm
randomised, four graphs of equal numerics:

    unmerged   as trained, the exact passes only
    whole      merged by the bare roofline: one kernel for each region, however large
    split      whole, then each depthwise kernel above 25 taps as the sum of its parity classes
    ours       merged by the prices measured on this machine and runtime (`edgewright calibrate`)

Each is lowered for each runtime, checked against the unmerged graph in float64, and all programs of
a case are measured interleaved in one run, with paired ratios and 95% intervals.

    python benchmarks/large_kernels.py [CASE ...] [--targets T ...] [--forms F ...]
        [--work DIR] [--json FILE] [--write]

`--write` puts the table into docs/large_kernels.md. Programs and readings are kept in DIR, so that a
run that was cut short goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from shared import page
from torch import nn

from compiler.evaluate import evaluate
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, TensorType, Value
from compiler.ir.verify import verify
from compiler.merge import merge
from compiler.merge.blocks import grouped
from compiler.merge.split import LIMIT, grid_of, sums
from compiler.merge.tap_map import TapMap, plain
from compiler.records import Artifact, Measurement
from devices import open_device
from devices.benchmark import Candidate
from devices.benchmark import measure as run
from devices.database import MeasurementDatabase
from devices.statistics import ratio
from edgewright.artifact import files_digest
from edgewright.calibration import calibrate
from edgewright.models import load_model
from edgewright.recipe import prior_of
from edgewright.runtime import infer
from edgewright.stages import canonicalise
from profiles import load_profile
from targets import get_target

TARGETS = ("executorch", "onnxruntime")
SEED = 7


class ConvNorm(nn.Sequential):
    """A depthwise convolution that keeps the size, and its BatchNorm."""

    def __init__(self, channels: int, kernel: int, dilation: int = 1) -> None:
        """Make them, `kernel` odd."""
        padding = dilation * (kernel - 1) // 2
        conv = nn.Conv2d(
            channels, channels, kernel, padding=padding, dilation=dilation, groups=channels, bias=False
        )
        super().__init__(conv, nn.BatchNorm2d(channels))


class DilatedReparam(nn.Module):
    """UniRepLKNet's block as trained (arXiv 2311.15599): 13x13 and its dilated branches."""

    BRANCHES = ((13, 1), (5, 1), (7, 2), (3, 3), (3, 4), (3, 5))  # kernel, dilation

    def __init__(self, channels: int) -> None:
        """Make the branches."""
        super().__init__()
        self.branches = nn.ModuleList(ConvNorm(channels, k, d) for k, d in self.BRANCHES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sum the branches."""
        return sum((branch(x) for branch in self.branches[1:]), self.branches[0](x))


@dataclass(frozen=True)
class Case:
    """A block or model: what `load_model` takes, and the shape of its input where it does not know."""

    name: str
    make: Callable[[], nn.Module | str]
    shape: tuple[int, ...] | None = None

    def source(self) -> nn.Module | str:
        """Return a fresh module in eval mode, the same in each call, or the model's name."""
        torch.manual_seed(SEED)
        made = self.make()
        return made if isinstance(made, str) else made.eval()

    def inputs(self) -> torch.Tensor | None:
        """Return example inputs, seeded."""
        torch.manual_seed(SEED)
        return None if self.shape is None else torch.randn(self.shape)

    def graph(self) -> Graph:
        """Return the unmerged graph."""
        return canonicalise(load_model(self.source(), self.inputs(), randomize=SEED)).graph


def _depthwise(channels: int, size: int) -> Case:
    shape = (1, channels, size, size)
    return Case(f"dw 7x7 {channels}ch {size}x{size}", lambda: ConvNorm(channels, 7), shape)


def _model(name: str) -> Case:
    return Case(name, lambda: f"timm:{name}")


CASES = (
    _depthwise(96, 28),
    _depthwise(64, 56),
    _depthwise(192, 14),
    Case("UniRepLKNet 13x13 96ch 28x28", lambda: DilatedReparam(96), (1, 96, 28, 28)),
    _model("convnext_atto"),
    _model("fastvit_t8"),
    _model("starnet_s1"),
)


def unmerged(case: Case, target: str, work: Path) -> Graph:
    """Return the graph as trained."""
    return case.graph()


def whole(case: Case, target: str, work: Path) -> Graph:
    """Return the graph merged by the prior, which knows no cliff."""
    return merge(case.graph())[0]


def split(case: Case, target: str, work: Path) -> Graph:
    """Return the merged graph with its large depthwise kernels as sums of parity classes."""
    graph = whole(case, target, work)
    editor = Editor(graph)
    for node in filter(lambda n: is_large(graph, n), graph.ops()):
        _write_parts(editor, node, _parity(_taps(graph, node)))
    made = editor.finish()
    verify(made)
    return made


def ours(case: Case, target: str, work: Path) -> Graph:
    """Return the graph merged by prices measured here and kept in the work folder's database.

    What could not be read steadily is priced by the prior with what the target states of its kernels.
    """
    done = calibrate(
        [case.source()],
        "host",
        "local",
        target,
        case.inputs(),
        database=f"sqlite:///{work / 'measurements.sqlite'}",
        randomize=SEED,
        allow_unstable=True,
        decide=("merge",),
        progress=lambda message: print(f"  {message}", file=sys.stderr),
    )
    return merge(case.graph(), done.table, prior_of(get_target(target)))[0]


FORMS: dict[str, Callable[[Case, str, Path], Graph]] = {
    "unmerged": unmerged,
    "whole": whole,
    "split": split,
    "ours": ours,
}


def is_large(graph: Graph, node: Node) -> bool:
    """Tell whether a node is a depthwise convolution of more than 25 taps."""
    weight = graph.constant(node.operand("weight")) if node.op == "aten.conv2d.default" else None
    return weight is not None and weight.shape[1] == 1 < weight.shape[0] and weight[0].numel() > LIMIT


def _taps(graph: Graph, node: Node) -> TapMap:
    """Return the tap map of a depthwise convolution, [taps, C, 1, 1]."""
    weight = graph.constant(node.operand("weight"))
    assert weight is not None
    kernel, geometry = weight.shape[2:], (node.operand("dilation"), node.operand("padding"))
    places = product(*(range(k) for k in kernel))
    offsets = tuple(tuple(d * a - p for a, d, p in zip(place, *geometry, strict=True)) for place in places)
    slack = tuple(2 * p - d * (k - 1) - 1 for k, d, p in zip(kernel, *geometry, strict=True))
    groups = int(node.operand("groups"))
    matrices = weight.flatten(2).permute(2, 0, 1).reshape(len(offsets), groups, -1, 1)
    sizes = graph.type_of(node.operand("input")).shape[2:], node.type.shape[2:]
    return plain(offsets, grouped(matrices), node.operand("stride"), slack, *sizes)


def _parity(taps: TapMap) -> tuple[TapMap, ...]:
    """Return the parity classes of the least modulus that needs no windows."""
    return next(parts for name, parts in sums(taps) if "windows" not in name)


def _write_parts(editor: Editor, node: Node, parts: Sequence[TapMap]) -> None:
    """Put the sum of the parts in the place of a convolution."""
    total = _write(editor, node, parts[0], node.operand("bias"))
    for part in parts[1:]:
        terms = {"self": total, "other": _write(editor, node, part, None)}
        total = editor.op("aten.add.Tensor", terms, node.types, origin=node.origin, before=node.name)
    editor.replace_uses(node.value, total)
    editor.remove_unread([node.name])


def _write(editor: Editor, node: Node, part: TapMap, bias: Value | None) -> Value:
    """Write one part, a pad in front where its padding is uneven."""
    grid, source = grid_of(part), node.operand("input")
    shape = editor.graph.type_of(source).shape
    axes = zip(grid.start, grid.step, grid.counts, part.stride, part.in_size, part.out_size, strict=True)
    pads = [(-a, (n - 1) * s + a + g * (k - 1) + 1 - size) for a, g, k, s, size, n in axes]  # type: ignore[operator]
    padding = tuple(max(left, right) for left, right in pads)
    if any(left != right for left, right in pads):
        flat = tuple(p for pair in reversed(pads) for p in pair)
        grown = (*shape[:2], *(d + sum(pair) for d, pair in zip(shape[2:], pads, strict=True)))  # type: ignore[operator]
        operands = {"self": source, "pad": flat, "value": 0.0}
        type_ = TensorType(grown, node.type.dtype)
        source = editor.op("aten.constant_pad_nd.default", operands, [type_], before=node.name)
        padding = (0, 0)
    weight = torch.zeros(part.channels_out, *grid.counts, dtype=part.weight.dtype)
    rows, columns = zip(*map(grid.index, part.offsets), strict=True)
    weight[:, rows, columns] = part.weight.flatten(1).T
    operands = {
        "input": source,
        "weight": editor.constant(weight[:, None], f"{node.name}_weight", before=node.name),
        "bias": bias,
        "stride": part.stride,
        "padding": padding,
        "dilation": grid.step,
        "groups": node.operand("groups"),
    }
    return editor.op("aten.conv2d.default", operands, node.types, origin=node.origin, before=node.name)


def build(case: Case, form: str, target: str, folder: Path, work: Path) -> None:
    """Lower one form of a case into `folder`, check it, and put `build.json` beside the program."""
    graph = FORMS[form](case, target, work)
    folder.mkdir(parents=True, exist_ok=True)
    lowered = get_target(target).lower({"forward": graph}, load_profile("host"), folder)
    digest = files_digest(folder, lowered.files)
    facts = {
        "artifact_digest": digest,
        "convolutions": graph.histogram().get("aten.conv2d.default", 0),
        "large": sum(is_large(graph, n) for n in graph.ops()),
        "max_relative_error": _error(case, target, Artifact(folder, {"artifact_digest": digest})),
    }
    (folder / "build.json").write_text(json.dumps(facts))


def _error(case: Case, target: str, artifact: Artifact) -> float:
    """Return the program's largest error over the largest output, the unmerged graph in float64 beside it."""
    graph = case.graph()
    torch.manual_seed(SEED + 1)
    call = [torch.randn([int(d) for d in n.type.shape]) for n in graph.inputs()]  # type: ignore[arg-type]
    wanted = evaluate(graph, call, torch.float64)[0]
    found = infer(artifact, get_target(target), load_profile("host"), [call])[0][0]
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


def row(case: Case, targets: Sequence[str], forms: Sequence[str], work: Path) -> list[dict[str, Any]]:
    """Build what is missing, measure a case's programs interleaved, and return a row for each runtime."""
    places = {(t, f): work / case.name.replace(" ", "_") / t / f for t in targets for f in forms}
    for (target, form), folder in places.items():
        if not (folder / "build.json").exists():
            print(f"building {case.name} ({form}, {target})", file=sys.stderr)
            build(case, form, target, folder, work)
    measured = dict(zip(places, _measure(case, places, work), strict=True))
    return [_row(case, target, forms, places, measured) for target in targets]


Place = tuple[str, str]


def _measure(case: Case, places: dict[Place, Path], work: Path) -> list[Measurement]:
    profile = load_profile("host")
    candidates = []
    for (name, form), folder in places.items():
        target, digest = get_target(name), json.loads((folder / "build.json").read_text())["artifact_digest"]
        spec = target.run_spec(Artifact(folder, {"artifact_digest": digest}), profile)
        label = f"{case.name} {form} {name}"
        versions = {"target": name, **target.versions()}
        # Equal forms are equal files; the series keeps them apart, each in its own place of a round.
        candidates.append(Candidate(label, digest, form, "", spec, target=versions, series=label))
    with MeasurementDatabase(f"sqlite:///{work / 'measurements.sqlite'}") as database:
        return run(candidates, open_device("local"), profile, database)


def _row(
    case: Case,
    target: str,
    forms: Sequence[str],
    places: dict[Place, Path],
    measured: dict[Place, Measurement],
) -> dict[str, Any]:
    """Return one row: what each form holds and takes, and each over the last."""
    result: dict[str, Any] = {"case": case.name, "target": target}
    last = measured[target, forms[-1]]
    for form in forms:
        facts = json.loads((places[target, form] / "build.json").read_text())
        reading = measured[target, form]
        statistics = reading.statistics
        result[form] = {
            **facts,
            "median_ms": statistics.median / 1e6,
            "low_ms": statistics.low / 1e6,
            "high_ms": statistics.high / 1e6,
            "stable": reading.stable,
        }
        if form != forms[-1]:
            found = ratio(reading.rounds, last.rounds)
            result[f"{form}_over_{forms[-1]}"] = [found.value, found.low, found.high]
    return result


def table(rows: Sequence[dict[str, Any]], forms: Sequence[str]) -> str:
    """Return the rows as a Markdown table; in brackets the depthwise kernels above 25 taps, and intervals."""
    ratios = [f"{form} ÷ {forms[-1]}" for form in forms[:-1]]
    heads = ["case", "runtime", *(f"{form} ms" for form in forms), *ratios]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for r in rows:
        cells = [r["case"], r["target"]]
        cells += [
            f"{r[f]['median_ms']:.3f} [{r[f]['large']}]{'' if r[f]['stable'] else ' (unstable)'}"
            for f in forms
        ]
        pairs = (r[f"{form}_over_{forms[-1]}"] for form in forms[:-1])
        cells += [f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, low, high in pairs]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Build, measure and print."""
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help=f"{', '.join(names)}; all by default")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--forms", nargs="+", choices=tuple(FORMS), default=tuple(FORMS))
    parser.add_argument("--work", type=Path, default=Path("build/large_kernels"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true", help="write docs/large_kernels.md")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - set(names):
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    chosen = [case for case in CASES if not arguments.cases or case.name in arguments.cases]
    arguments.work.mkdir(parents=True, exist_ok=True)
    rows = [r for case in chosen for r in row(case, arguments.targets, arguments.forms, arguments.work)]
    if arguments.json:
        document = {"schema": "edgewright.benchmark.large_kernels/1", "rows": rows}
        arguments.json.write_text(json.dumps(document, indent=1))
    text = table(rows, arguments.forms)
    print(text)
    if arguments.write:
        page.write("large_kernels", "Large depthwise kernels", str(__doc__), text)


if __name__ == "__main__":
    main()
