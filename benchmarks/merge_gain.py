"""What merging buys: stock ExecuTorch on the train form, on timm's reparameterized form, and ours.

For each model, BatchNorm randomised: conv and batch_norm counts of the three forms, seconds to
compile each, and latency of the three programs interleaved in one run on this machine, as ratios
with 95% intervals. "stock" is `torch.export` + `to_edge_transform_and_lower` with the XNNPACK
partitioner, nothing of ours; "timm" is the same on `timm.utils.reparameterize_model`; "ours" is
`edgewright.compile` on the train form, verification included in its seconds.

    python benchmarks/merge_gain.py [MODEL ...] [--work DIR] [--json FILE]

Programs are kept in DIR, so that a run that was cut short goes on where it stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

MODELS = ("repvgg_a0", "mobileone_s0", "mobileone_s1", "repghostnet_050", "repvit_m0_9", "fastvit_t8")
FORMS = ("stock", "timm", "ours")
SEED = 7


def loaded(name: str) -> Any:
    """Return the randomised train-form model with its example inputs."""
    from edgewright.models import load_model

    return load_model(f"timm:{name}", None, randomize=SEED)


def build(name: str, form: str, folder: Path) -> None:
    """Compile one form of a model into `folder`, with `build.json` beside the program."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model = loaded(name)
    if form == "ours":
        facts = _ours(model, folder)
    else:
        module = copy.deepcopy(model.source)
        if form == "timm":
            from timm.utils import reparameterize_model

            module = reparameterize_model(module)
        facts = _stock(module, model.args, folder)
    (folder / "build.json").write_text(json.dumps(facts))


def _stock(module: torch.nn.Module, args: tuple[Any, ...], folder: Path) -> dict[str, Any]:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    start = time.perf_counter()
    program = torch.export.export(module, args)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    buffer = lowered.to_executorch().buffer
    seconds = time.perf_counter() - start
    (folder / "model.pte").write_bytes(buffer)
    with torch.no_grad():
        output = module(*args)
    specs = [
        {"name": name, "shape": list(t.shape), "dtype": "float32"}
        for name, t in (("x", args[0]), ("y", output))
    ]
    document = {"methods": {"forward": {"inputs": specs[:1], "outputs": specs[1:]}}, "kernels": []}
    document |= {"schema": "edgewright.executorch.io/2"}
    (folder / "io.json").write_text(json.dumps(document))
    nodes = [str(n.target) for n in program.run_decompositions({}).graph.nodes if n.op == "call_function"]
    return {
        "seconds": seconds,
        "convs": sum(t.startswith("aten.conv") for t in nodes),
        "batch_norms": sum("batch_norm" in t for t in nodes),
    }


def _ours(model: Any, folder: Path) -> dict[str, Any]:
    from edgewright.compilation import build as build_artifact
    from edgewright.recipe import Recipe, resolve
    from edgewright.stages import prepare

    start = time.perf_counter()
    prepared = prepare(model)
    build_artifact([prepared], Recipe(*resolve("host", "executorch")), folder / "artifact")
    seconds = time.perf_counter() - start
    counts = prepared.graph.histogram()
    for name in ("model.pte", "io.json"):
        (folder / name).write_bytes((folder / "artifact" / name).read_bytes())
    return {
        "seconds": seconds,
        "convs": sum(n for op, n in counts.items() if op.startswith("aten.conv")),
        "batch_norms": sum(n for op, n in counts.items() if "batch_norm" in op),
    }


def measure(name: str, work: Path) -> list[Any]:
    """Measure the three programs of a model interleaved."""
    from compiler.records import Artifact
    from devices import open_device
    from devices.benchmark import Candidate
    from devices.benchmark import measure as run
    from devices.database import MeasurementDatabase
    from profiles import load_profile
    from targets import get_target

    profile, target = load_profile("host"), get_target("executorch")
    candidates = []
    for form in FORMS:
        artifact = Artifact(work / name / form, {"artifact_digest": f"{name}-{form}"})
        candidates.append(
            Candidate(f"{name}/{form}", f"{name}-{form}", form, "", target.run_spec(artifact, profile))
        )
    with MeasurementDatabase(f"sqlite:///{work / 'measurements.sqlite'}") as database:
        return run(candidates, open_device("local"), profile, database)


def row(name: str, work: Path) -> dict[str, Any]:
    """Build what is missing, measure, and return one row of the table."""
    from devices.statistics import ratio

    for form in FORMS:
        folder = work / name / form
        if not (folder / "build.json").exists():
            print(f"building {name} ({form})", file=sys.stderr)
            command = [sys.executable, __file__, "--build", name, form, str(folder)]
            subprocess.run(command, check=True, stdout=sys.stderr)
    measured = dict(zip(FORMS, measure(name, work), strict=True))
    result: dict[str, Any] = {"model": name}
    for form in FORMS:
        facts = json.loads((work / name / form / "build.json").read_text())
        result |= {f"{form}_{key}": value for key, value in facts.items()}
        result[f"{form}_median_ms"] = measured[form].statistics.median / 1e6
        result[f"{form}_stable"] = measured[form].stable
    for form in ("stock", "timm"):
        found = ratio(measured[form].rounds, measured["ours"].rounds)
        result[f"{form}_over_ours"] = [found.value, found.low, found.high]
    return result


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| model | convs stock / timm / ours | BN stock / timm / ours | compile s stock / timm / ours "
        "| median ms stock / timm / ours | stock ÷ ours | timm ÷ ours |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        cells = [
            r["model"],
            " / ".join(str(r[f"{f}_convs"]) for f in FORMS),
            " / ".join(str(r[f"{f}_batch_norms"]) for f in FORMS),
            " / ".join(f"{r[f'{f}_seconds']:.1f}" for f in FORMS),
            " / ".join(
                f"{r[f'{f}_median_ms']:.2f}{'' if r[f'{f}_stable'] else ' (unstable)'}" for f in FORMS
            ),
            *(f"{m:.2f} [{a:.2f}, {b:.2f}]" for m, a, b in (r["stock_over_ours"], r["timm_over_ours"])),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Build, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--work", type=Path, default=Path("build/merge_gain"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--build", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build:
        name, form, folder = arguments.build
        build(name, form, Path(folder))
        return
    rows = [row(name, arguments.work) for name in arguments.models or MODELS]
    if arguments.json:
        document = {"schema": "edgewright.benchmark.merge_gain/1", "rows": rows}
        arguments.json.write_text(json.dumps(document, indent=1))
    print(table(rows))


if __name__ == "__main__":
    main()
