"""docs/executorch_suite.md: ExecuTorch's own operator suite, stock and with edgewright in front.

    python -m tests.executorch_suite.run [FILTER] [--jobs N] [--work DIR] [--write]

The suite ships in ExecuTorch's wheel. Each of its cases runs by four flows of XNNPACK (float32, three kinds
of int8) behind edgewright's import, exact passes, merge and legalisation; what does not pass there runs
by the same flow without them. No case that passes stock may fail with us in front: the run ends with 1
where one does. What is done is kept in DIR, so that a run that was cut short goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "executorch_suite.md"
OURS = "edgewright_"
FOUND = "EDGEWRIGHT_SUITE_FOUND"
SIDE = "EDGEWRIGHT_SUITE_SIDE"
ORDER = ("failed", "skipped", "passed")


def outcomes(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Return what was said of each case and flow, the worst where there are several reports."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        flow = entry["test"].rpartition("[")[2]
        flow = flow.rstrip("]").split("-")[0]
        key = (entry["test"].replace(OURS, ""), "ours" if OURS in entry["test"] else "stock")
        if key not in found or ORDER.index(entry["outcome"]) < ORDER.index(found[key]["outcome"]):
            found[key] = {"outcome": entry["outcome"], "said": entry["said"], "flow": flow.removeprefix(OURS)}
    return found


def regressions(found: Mapping[tuple[str, str], Mapping[str, str]]) -> list[str]:
    """Return the cases that pass stock and do not with us in front."""
    cases = sorted({case for case, _ in found})
    return [c for c in cases if _is(found, c, "stock") == "passed" and _is(found, c, "ours") != "passed"]


def _is(found: Mapping[tuple[str, str], Mapping[str, str]], case: str, side: str) -> str:
    return found.get((case, side), {}).get("outcome", "missing")


def page(found: Mapping[tuple[str, str], Mapping[str, str]]) -> str:
    """Return the page: counts by flow, and what only stock passes."""
    counts = Counter((f["flow"], side, f["outcome"]) for (_, side), f in found.items())
    flows = sorted({flow for flow, _, _ in counts})
    rows = [
        f"| {flow} | "
        + " | ".join(str(counts[flow, s, o]) for s in ("ours", "stock") for o in ORDER[::-1])
        + " |"
        for flow in flows
    ]
    lost = regressions(found)
    parts = [
        "# ExecuTorch's operator suite",
        "Written by `python -m tests.executorch_suite.run --write`.",
        "\n".join((__doc__ or "").split("\n\n")[-1].splitlines()),
        "\n".join(
            [
                "| flow | passed | skipped | failed | of those two: passed stock | skipped | failed |",
                "|---|---|---|---|---|---|---|",
                *rows,
            ]
        ),
        f"Pass stock and not with us in front: {len(lost)}."
        + "".join(f"\n- `{c}`: {found[c, 'ours']['said']}" for c in lost),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Run the suite and print or write the page."""
    parser = argparse.ArgumentParser(description="ExecuTorch's operator suite with edgewright in front")
    parser.add_argument("filter", nargs="?", help="a pytest -k expression")
    parser.add_argument("--jobs", default="2")
    parser.add_argument("--work", type=Path, default=Path("out/executorch_suite"))
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    import executorch.backends.test.suite.operators as operators

    arguments.work.mkdir(parents=True, exist_ok=True)
    kept = (arguments.work / "found.jsonl").absolute()
    kept.touch()
    command = [sys.executable, "-m", "pytest", "-q", "-n", arguments.jobs, "-c", os.devnull, "-p", "no:anyio"]
    command += ["-p", "no:cacheprovider", "-p", "tests.executorch_suite.plugin", *operators.__path__]
    command += ["-k", arguments.filter] if arguments.filter else []
    environment = os.environ | {FOUND: str(kept), "PYTHONPATH": str(Path(__file__).parents[2])}
    for side in ("ours", "stock"):  # stock are only the cases that did not pass with ours
        subprocess.run(command, env=environment | {SIDE: side}, check=False, stdout=sys.stderr)
    found = outcomes(kept)
    text = page(found)
    if arguments.write:
        PAGE.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 1 if regressions(found) else 0


if __name__ == "__main__":
    sys.exit(main())
