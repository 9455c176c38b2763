"""What other tool chains leave of mergeable patterns, and what merging before them buys.

Eight small patterns go through each tool's own path twice: "stock", as torch exports them, and
"ours", merged by edgewright first. Both take the same path: torch's ONNX exporter, which itself
folds a BatchNorm into the convolution before it, and the tool's reader; litert-torch; or
ExecuTorch's XNNPACK lowering. Three tables:

- operations left after the tool's own optimisation, read from what the tool writes: conv, linear
  and matmul, and in brackets everything else that computes (layout and shape operations left out);
- latency of stock over ours in the tool's runtime, one thread, the two programs interleaved in one
  run, paired by round, with 95% intervals (a dash where there is no runtime to measure);
- the largest error of each against torch in float64, over the largest output.

    python benchmarks/toolchains.py --setup [TOOL ...]      make the environments, then stop
    python benchmarks/toolchains.py [TOOL ...] [--patterns NAME ...] [--no-latency]
                                    [--fresh | --remeasure] [--json FILE] [--write]

The tools cannot share an environment, so each has its own below out/toolchains/, with pinned
versions. A run uses those that are there and says which are not. What was found is kept there
too, so that a run that was cut short goes on; `--fresh` forgets it, `--remeasure` the latencies.
`--write` puts the tables into docs/toolchains.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "toolchains"))
from environments import (
    EXPORTER,
    ONE_THREAD,
    ROOT,
    SCRIPTS,
    TOOLS,
    Failed,
    Tool,
    environments,
    python_of,
    run,
    set_up,
    unavailable,
)
from tables import FORMS, notes, page, tables

DOCUMENT = Path("docs/toolchains.md")
Step = Callable[[Tool, str], dict[str, Any]]


def exported(with_onnx: bool) -> list[dict[str, Any]]:
    """Return the patterns, having exported what is not exported yet."""
    folder = ROOT / "patterns"
    index = folder / "patterns.json"
    if not index.exists():
        print("exporting the patterns", file=sys.stderr)
        run([sys.executable, str(SCRIPTS / "patterns.py"), str(folder)], "patterns")
    found: list[dict[str, Any]] = json.loads(index.read_text(encoding="utf-8"))
    if with_onnx and not all((folder / p["name"] / f"{f}.onnx").exists() for p in found for f in FORMS):
        print("converting the patterns to ONNX", file=sys.stderr)
        run([str(python_of(EXPORTER)), str(SCRIPTS / "to_onnx.py"), str(folder)], "to_onnx")
    return found


def results(tools: Sequence[Tool], patterns: Sequence[str], timed: bool) -> list[dict[str, Any]]:
    """Return what each tool made of each pattern; all is compiled before the first is measured.

    Unless `timed`, latencies are those of earlier runs.
    """
    pairs = [(tool, pattern) for tool in tools for pattern in patterns]
    found = [{"tool": t.name, "pattern": p, **remembered(t, p, "build", built)} for t, p in pairs]
    for (tool, pattern), record in zip(pairs, found, strict=True):
        if tool.has_runtime and "failed" not in record and (timed or kept(tool, pattern, "latency").exists()):
            record |= remembered(tool, pattern, "latency", measured)
    return found


def kept(tool: Tool, pattern: str, step: str) -> Path:
    """Return where the result of a step is kept."""
    return ROOT / "results" / f"{tool.name}.{pattern}.{step}.json"


def remembered(tool: Tool, pattern: str, step: str, make: Step) -> dict[str, Any]:
    """Return what a step gave in an earlier run, or make and keep it; a failure is not kept."""
    path = kept(tool, pattern, step)
    if not path.exists():
        print(f"{tool.name}: {step} {pattern}", file=sys.stderr)
        try:
            found = make(tool, pattern)
        except Failed as failure:
            print(f"  failed: {failure}", file=sys.stderr)
            return {"failed": str(failure)}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found), encoding="utf-8")
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def built(tool: Tool, pattern: str) -> dict[str, Any]:
    """Compile both forms in the tool's environment; return versions, operations and errors."""
    command = [*worker(tool, "build", pattern), str(ROOT / "built" / tool.name / pattern)]
    report: dict[str, Any] = json.loads(run(command, f"{tool.name}.{pattern}"))
    return report


def worker(tool: Tool, do: str, pattern: str) -> list[str]:
    """Return the command that runs a step in the tool's environment, but for its folder."""
    script, data = (SCRIPTS / "worker.py").absolute(), (ROOT / "patterns" / pattern).absolute()
    return [str(python_of(tool.name)), str(script), do, tool.name, str(data)]


def measured(tool: Tool, pattern: str) -> dict[str, Any]:
    """Measure both forms interleaved; return medians in microseconds and their paired ratio."""
    from compiler.errors import DeviceError
    from compiler.records import RunSpec
    from devices import open_device
    from devices.benchmark import Candidate, measure
    from devices.content import content_address
    from devices.database import MeasurementDatabase
    from devices.statistics import ratio
    from profiles import load_profile

    host = load_profile("host")
    # Microseconds each: many short rounds, and no more than 20 s for a pair.
    limits = replace(host.protocol, round_s=0.1, min_rounds=15, max_seconds=6.0, warmup_max_s=2.0)
    profile = replace(host, protocol=limits)
    candidates = []
    for form in FORMS:
        place = (ROOT / "built" / tool.name / pattern / form).absolute()
        spec = RunSpec({}, (*worker(tool, "serve", pattern), str(place)), ONE_THREAD)
        label = f"{tool.name}/{pattern}/{form}"
        candidates.append(Candidate(label, content_address(place), label, "", spec))
    try:
        with MeasurementDatabase(f"sqlite:///{ROOT / 'measurements.sqlite'}") as database:
            stock, ours = measure(candidates, open_device("local"), profile, database)
        found = ratio(stock.rounds, ours.rounds)
    except (DeviceError, ValueError) as error:
        raise Failed(str(error).splitlines()[0]) from error
    return {
        "stock_median_us": stock.statistics.median / 1e3,
        "ours_median_us": ours.statistics.median / 1e3,
        "stock_over_ours": [found.value, found.low, found.high],
    }


def forget(steps: Sequence[str], tools: Sequence[Tool]) -> None:
    """Forget what the steps gave for the tools."""
    for tool in tools:
        for step in steps:
            for path in (ROOT / "results").glob(f"{tool.name}.*.{step}.json"):
                path.unlink()


def parsed() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("tools", nargs="*", metavar="TOOL", help=f"of {', '.join(t.name for t in TOOLS)}")
    parser.add_argument("--setup", action="store_true", help="make the environments, then stop")
    parser.add_argument("--pip-args", default="", help="options for every pip install of --setup")
    parser.add_argument("--patterns", nargs="+", metavar="NAME", help="these patterns only")
    parser.add_argument("--no-latency", action="store_true", help="measure nothing that is not measured yet")
    parser.add_argument("--fresh", action="store_true", help="forget the patterns and all results")
    parser.add_argument("--remeasure", action="store_true", help="forget the latencies")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT}")
    arguments = parser.parse_args()
    unknown = set(arguments.tools) - {t.name for t in TOOLS}
    if unknown:
        parser.error(f"unknown tools {', '.join(sorted(unknown))}; known: {', '.join(t.name for t in TOOLS)}")
    return arguments


def main() -> None:
    """Set up, or compile, measure and print."""
    arguments = parsed()
    tools = [t for t in TOOLS if t.name in (arguments.tools or [t.name])]
    if arguments.setup:
        for name in environments(tools):
            set_up(name, arguments.pip_args.split())
        return
    absent = {t.title: reason for t in tools if (reason := unavailable(t))}
    tools = [t for t in tools if t.title not in absent]
    if arguments.fresh:
        shutil.rmtree(ROOT / "patterns", ignore_errors=True)
    if arguments.fresh or arguments.remeasure:
        forget(("build", "latency") if arguments.fresh else ("latency",), tools)
    report(arguments, tools, absent)


def report(arguments: argparse.Namespace, tools: Sequence[Tool], absent: dict[str, str]) -> None:
    """Make the results, print them, and write what was asked for."""
    from devices import open_device

    patterns = exported(any(t.reads_onnx for t in tools))
    patterns = [p for p in patterns if p["name"] in (arguments.patterns or [p["name"]])]
    found = results(tools, [p["name"] for p in patterns], not arguments.no_latency)
    machine = dict(open_device("local").fingerprint())
    text = f"{tables(tools, patterns, found)}\n\n{notes(found, absent)}".strip()
    print(text)
    if arguments.json:
        summary: dict[str, Any] = {"schema": "edgewright.benchmark.toolchains/1", "machine": machine}
        summary |= {"absent": absent, "patterns": patterns, "results": found}
        arguments.json.write_text(json.dumps(summary, indent=1), encoding="utf-8")
    if arguments.write:
        about = str(__doc__).split("    python benchmarks", 1)[0].split("\n\n", 1)[1].strip()
        where = f"on {machine['cores']} cores of {machine['processor']}"
        about = f"Printed by `python benchmarks/toolchains.py` {where}.\n\n{about}"
        DOCUMENT.write_text(page(about, tools, text), encoding="utf-8")


if __name__ == "__main__":
    main()
