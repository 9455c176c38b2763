"""docs/zoo.md: every model of `models.txt` imported, merged, lowered, run and compared, by target.

    python -m tests.zoo.run [MODEL ...] [--targets NAME ...] [--jobs N] [--work DIR] [--write]

Each model has random BatchNorm statistics, affine parameters and biases. A step is *verified* where the
runtime's results agree with the original model in float64 as `edgewright compile` demands; it is
*refused* where a clear error said why not, *differs* where the results do not agree (an artifact is
never written then), *failed* where anything else was raised, *died* where the process ended or was ended. What is done is
kept in DIR: a run that was cut short goes on where it stopped. `--write` puts
docs/zoo.json beside the page.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from targets import list_targets

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "zoo.md"
TIMEOUT_S = 1800
GAPS: Mapping[str, str] = json.loads((HERE / "gaps.json").read_text(encoding="utf-8"))


def listed() -> list[str]:
    """Return the models of the list."""
    lines = (HERE / "models.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def judged(spec: str, targets: Sequence[str], folder: Path) -> dict[str, Any]:
    """Return what became of a model at each step, running what is not done yet."""
    document = folder / f"{spec.replace(':', '_').replace('/', '_')}.json"
    command = [sys.executable, "-m", "tests.zoo.one", spec, str(document), *targets]
    end = ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        end = "" if done.returncode == 0 else f"exit code {done.returncode}: {done.stderr.strip()[-300:]}"
    except subprocess.TimeoutExpired:
        end = f"no end within {TIMEOUT_S} s"
    found: dict[str, Any] = json.loads(document.read_text()) if document.exists() else {"model": spec}
    if end and (step := next((s for s in ("imported", *targets) if s not in found), None)):
        found[step] = {"outcome": "died", "reason": end, "seconds": 0.0}
        document.write_text(json.dumps(found, indent=1) + "\n")
        return judged(spec, targets, folder) if step != "imported" else found
    outcomes = ", ".join(f"{s} {its['outcome']}" for s, its in found.items() if s != "model")
    sys.stderr.write(f"{spec}: {outcomes}\n")
    return found


def reason(spec: str, step: str, found: Mapping[str, Any]) -> str:
    """Return the class of a gap: what is known of it, or the first line of what was said."""
    text = str(found["reason"])
    known = next(
        (why for pattern, why in GAPS.items() if pattern in text or pattern == f"{step} {spec}"), None
    )
    return known or text.splitlines()[0][:240]


def page(found: Sequence[Mapping[str, Any]], targets: Sequence[str]) -> str:
    """Return the page: shares, a line a model, then each gap with its reason."""
    steps = ("imported", *targets)
    shares = [f"| {s} | {_share(found, s)} | {_counts(found, s)} |" for s in steps]
    rows = [f"| `{m['model']}` | {' | '.join(_cell(m, s) for s in steps)} |" for m in found]
    gaps = Counter(
        (s, reason(m["model"], s, m[s]))
        for m in found
        for s in steps
        if s in m and m[s]["outcome"] != "verified"
    )
    listing = [f"| {s} | {n} | {why.replace('|', '/')} |" for (s, why), n in sorted(gaps.items())]
    parts = [
        "# The model zoo",
        f"Written by `make zoo` (`python -m tests.zoo.run --write`): {len(found)} models.",
        "\n".join((__doc__ or "").split("\n\n")[-1].splitlines()),
        "\n".join(["| step | verified | outcomes |", "|---|---|---|", *shares]),
        "## Models\n\nThe largest relative error of what was verified, over the results and three sets of inputs; "
        "in brackets the operations that a delegate left outside.",
        "\n".join([f"| model | {' | '.join(steps)} |", "|---" * (len(steps) + 1) + "|", *rows]),
        "## Gaps",
        "\n".join(["| step | models | reason |", "|---|---|---|", *listing]),
    ]
    return "\n\n".join(parts) + "\n"


def _share(found: Sequence[Mapping[str, Any]], step: str) -> str:
    done = [m[step]["outcome"] for m in found if step in m]
    return f"{100 * done.count('verified') / len(done):.1f}% of {len(done)}" if done else "-"


def _counts(found: Sequence[Mapping[str, Any]], step: str) -> str:
    return ", ".join(
        f"{n} {k}" for k, n in Counter(m[step]["outcome"] for m in found if step in m).most_common()
    )


def _cell(model: Mapping[str, Any], step: str) -> str:
    its = model.get(step)
    if its is None:
        return "-"
    if its["outcome"] != "verified":
        return f"**{its['outcome']}**"
    error = its["merge_error"] if step == "imported" else its["max_relative_error"]
    outside = f" [{its['outside_ops']}]" if its.get("outside_ops") else ""
    return f"{error:.1e}{outside}"


def main() -> None:
    """Judge the models and print or write the page."""
    parser = argparse.ArgumentParser(
        description="the zoo run", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=[])
    parser.add_argument("--targets", nargs="+", default=list_targets())
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("out/zoo"))
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    models = arguments.models or listed()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        found = list(pool.map(lambda m: judged(m, arguments.targets, arguments.work), models))
    text = page(found, arguments.targets)
    if arguments.write:
        PAGE.write_text(text, encoding="utf-8")
        PAGE.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
