"""What the whole compiler buys over each runtime's own path, and over the best of them.

For each model, BatchNorm randomised, three stock programs and one of ours for each runtime, all measured
interleaved in one run on this machine, one thread:

    stock executorch     torch.export, `to_edge_transform_and_lower` with the XNNPACK partitioner
    stock litert         `litert_torch.convert` of the module
    stock onnxruntime    `torch.onnx.export` of the module, all of the session's optimisations
    ours                 `edgewright compile` for each of them: verified in its runtime
    auto                 what `--target auto` keeps: the one of ours with the least median

Ratios are paired by round, with 95% intervals: stock ÷ ours for each runtime, and the best stock ÷ auto.
The last rows are geometric means over the models, their intervals from resampling models. A stock
path that fails, or whose result is off by more than 1% of the largest value, has no time.

    python benchmarks/runtimes.py [MODEL ...] [--work DIR] [--json FILE] [--write]

Programs and readings are kept in DIR, so that a run that was cut short goes on where it stopped.
`--write` puts the table into docs/runtimes.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shared import page

MODELS = (
    *("convnext_atto", "fastvit_t8", "starnet_s1", "mobilevit_xxs", "eva02_tiny_patch14_224"),
    *("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "edgenext_xx_small", "mobileone_s0"),
    *("repvgg_a0", "repghostnet_050", "repvit_m0_9", "mobilenetv3_small_050", "mobilenetv4_conv_small"),
    *("efficientnet_lite0", "resnet18", "ghostnet_100", "levit_128s", "poolformer_s12", "efficientvit_b0"),
)
RUNTIMES = ("executorch", "litert", "onnxruntime")
FORMS = ("stock", "ours")
SEED = 7
FILES = {"executorch": "model.pte", "litert": "model.tflite", "onnxruntime": "model.onnx"}
OFF = 1e-2


def build(name: str, form: str, runtime: str, folder: Path) -> None:
    """Write a program and its IO file into `folder`, and its error, or why it fails, in `build.json`."""
    from edgewright.models import load_model

    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model = load_model(f"timm:{name}", None, randomize=SEED)
    try:
        _ours(model, runtime, folder) if form == "ours" else _stock(model, runtime, folder)
        facts: dict[str, Any] = {"error": _error(model, runtime, folder)}
    except Exception as error:  # the SDKs share no base class, and a path that fails is a result
        facts = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    (folder / "build.json").write_text(json.dumps(facts))


def _ours(model: Any, runtime: str, folder: Path) -> None:
    from edgewright.compilation import build as build_artifact
    from edgewright.recipe import Recipe, resolve
    from edgewright.stages import prepare

    recipe = Recipe(*resolve("host", runtime))
    artifact = build_artifact([prepare(model, prior=recipe.prior)], recipe, folder / "artifact")
    for name in (FILES[runtime], "io.json"):
        (folder / name).write_bytes((artifact.folder / name).read_bytes())


def _stock(model: Any, runtime: str, folder: Path) -> None:
    module, args = model.source, tuple(model.args)
    path = folder / FILES[runtime]
    if runtime == "executorch":
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        lowered = to_edge_transform_and_lower(
            torch.export.export(module, args), partitioner=[XnnpackPartitioner()]
        )
        path.write_bytes(lowered.to_executorch().buffer)
    elif runtime == "litert":
        import litert_torch

        litert_torch.signature("forward", module, args).convert().export(str(path))
    else:
        torch.onnx.export(module, args, path, dynamo=True, external_data=False, verbose=False)
    with torch.no_grad():
        output = module(*args)
    specs = [
        {"name": name, "shape": list(t.shape), "dtype": "float32"}
        for name, t in (("x", args[0]), ("y", output))
    ]
    call = {"inputs": specs[:1], "outputs": specs[1:]}
    document = {"schema": "edgewright.io/1", "methods": {"forward": call}, "kernels": []}
    (folder / "io.json").write_text(json.dumps(document))


def _error(model: Any, runtime: str, folder: Path) -> float:
    """Return the largest error over the largest result, against the model in float64."""
    from compiler.records import Artifact
    from edgewright.runtime import infer
    from profiles import load_profile
    from targets import get_target

    artifact = Artifact(folder, {"artifact_digest": "-"})
    [[found]] = infer(artifact, get_target(runtime), load_profile("host"), [tuple(model.args)])
    wanted = model.call_double(model.args, model.kwargs)[0]
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


def measure(name: str, places: Sequence[tuple[str, str]], work: Path) -> list[Any]:
    """Measure the programs of a model interleaved."""
    from compiler.records import Artifact
    from devices import open_device
    from devices.benchmark import Candidate
    from devices.benchmark import measure as run
    from devices.database import MeasurementDatabase
    from profiles import load_profile
    from targets import get_target

    profile, candidates = load_profile("host"), []
    for form, runtime in places:
        key = f"{name}-{form}-{runtime}"
        artifact = Artifact(work / name / f"{form}_{runtime}", {"artifact_digest": key})
        spec = get_target(runtime).run_spec(artifact, profile)
        candidates.append(Candidate(key, key, form, "", spec, target={"target": runtime}))
    with MeasurementDatabase(f"sqlite:///{work / 'measurements.sqlite'}") as database:
        return run(candidates, open_device("local"), profile, database, open_runners=len(candidates))


def row(name: str, work: Path) -> dict[str, Any]:
    """Build what is missing, measure, and return one row of the table."""
    from devices.statistics import ratio

    kept = work / name / "row.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    result: dict[str, Any] = {"model": name}
    places = []
    for form in FORMS:
        for runtime in RUNTIMES:
            folder = work / name / f"{form}_{runtime}"
            if not (folder / "build.json").exists():
                print(f"building {name} ({form} {runtime})", file=sys.stderr)
                command = [sys.executable, __file__, "--build", name, form, runtime, str(folder)]
                subprocess.run(command, check=True, stdout=sys.stderr, stderr=subprocess.DEVNULL)
            facts = json.loads((folder / "build.json").read_text())
            if facts.get("failed") or not facts["error"] <= OFF:
                result[f"{form}_{runtime}_failed"] = facts.get("failed") or f"off by {facts['error']:.1e}"
            else:
                places.append((form, runtime))
    print(f"measuring {name}", file=sys.stderr)
    found = dict(zip(places, measure(name, places, work), strict=True))
    for (form, runtime), its in found.items():
        result[f"{form}_{runtime}_ms"] = its.statistics.median / 1e6
        result[f"{form}_{runtime}_stable"] = its.stable
    best = {f: min((p for p in found if p[0] == f), key=lambda p: found[p].statistics.median) for f in FORMS}
    result |= {"best_stock": best["stock"][1], "auto": best["ours"][1]}
    pairs = {r: (("stock", r), ("ours", r)) for r in RUNTIMES} | {"auto": (best["stock"], best["ours"])}
    for key, (stock, ours) in pairs.items():
        if stock in found and ours in found:
            r = ratio(found[stock].rounds, found[ours].rounds)
            result[f"{key}_ratio"] = [r.value, r.low, r.high]
    kept.write_text(json.dumps(result, indent=1))
    return result


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows and their geometric means as a Markdown table."""
    names = [f"{f} {r} ms" for r in RUNTIMES for f in FORMS]
    columns = [
        "model",
        *names,
        *(f"{r}: stock ÷ ours" for r in RUNTIMES),
        "best stock",
        "auto",
        "best stock ÷ auto",
    ]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for r in rows:
        times = [_time(r, f, t) for t in RUNTIMES for f in FORMS]
        ratios = [_ratio(r.get(f"{t}_ratio")) for t in RUNTIMES]
        cells = [r["model"], *times, *ratios, r["best_stock"], r["auto"], _ratio(r.get("auto_ratio"))]
        lines.append(f"| {' | '.join(cells)} |")
    means = [_mean([r[f"{k}_ratio"][0] for r in rows if f"{k}_ratio" in r]) for k in (*RUNTIMES, "auto")]
    lines.append(f"| **geometric mean** |{' |' * len(names)} {' | '.join(means[:-1])} | | | {means[-1]} |")
    failed = [
        f"- {r['model']}, {key[:-7].replace('_', ' ')}: {r[key]}"
        for r in rows
        for key in r
        if key.endswith("_failed")
    ]
    return "\n".join(lines) + ("\n\nWithout a time:\n\n" + "\n".join(failed) if failed else "")


def _time(row: dict[str, Any], form: str, runtime: str) -> str:
    value = row.get(f"{form}_{runtime}_ms")
    return "-" if value is None else f"{value:.2f}{'' if row[f'{form}_{runtime}_stable'] else ' (unsteady)'}"


def _ratio(found: Sequence[float] | None) -> str:
    return "-" if found is None else f"{found[0]:.2f} [{found[1]:.2f}, {found[2]:.2f}]"


def _mean(ratios: Sequence[float]) -> str:
    """Return the geometric mean with its interval over models."""
    logs = np.log(np.asarray(ratios))
    if not len(logs):
        return "-"
    picks = np.random.default_rng(0).integers(len(logs), size=(4000, len(logs)))
    low, high = np.exp(np.percentile(logs[picks].mean(axis=1), (2.5, 97.5)))
    return f"**{np.exp(logs.mean()):.2f}** [{low:.2f}, {high:.2f}]"


def main() -> None:
    """Build, measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--work", type=Path, default=Path("build/runtimes"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--build", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build:
        name, form, runtime, folder = arguments.build
        build(name, form, runtime, Path(folder))
        return
    rows = [row(name, arguments.work) for name in arguments.models or MODELS]
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"schema": "edgewright.benchmark.runtimes/1", "rows": rows}, indent=1)
        )
    text = table(rows)
    print(text)
    if arguments.write:
        page.write("runtimes", "Each runtime's own path against ours", str(__doc__), text)


if __name__ == "__main__":
    main()
