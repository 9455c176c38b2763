"""docs/opinfo.md: torch's own operator samples through export, the IR, and back to an exported program.

    python -m tests.opinfo.run [NAME ...] [--samples N] [--jobs N] [--work DIR] [--json FILE] [--write]

Each operator of `op_db` with float32 samples on the CPU is called as a small module on its first N
samples: tensors of the call are inputs, all else is fixed. The graph is imported, passes the exact
pipeline, is exported again, and both must equal torch (1e-4 of the largest value). What is done is kept
in DIR, so that a run that was cut short goes on where it stopped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import re
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from compiler.errors import UnsupportedModelError
from compiler.evaluate import evaluate
from compiler.export import export_graph, fold_inputs
from compiler.frontends.torch_export import import_model
from compiler.passes import PIPELINE
from edgewright.models.loaded import call_flat, tensors
from tests import quicker

PAGE = Path(__file__).parents[2] / "docs" / "opinfo.md"
CLOSE = 1e-4
SECONDS = 120
PASSED, RANDOM, REFUSED, EXPORT, DIFFERS, FAILED = (
    "passed",
    "random",
    "refused",
    "not exported",
    "differs",
    "failed",
)

CLASSES = {
    "draws random numbers": "draws random numbers",
    "training mode": "the sample is a call in training mode",
    "depends? on data|DynamicOutputShape|PendingUnbacked": "a shape or the control flow depends on data",
    "writes its input": "the operator writes its input",
    "batch statistics": "the batch statistics of BatchNorm are a result",
    "list of tensors inside": "a list of tensors inside a tuple of results",
    "Sparse|_sparse_": "sparse tensors",
    "Jiterator": "Jiterator needs a GPU",
    "setStorage": "reads the storage beside its input, which a graph's input does not bring",
    "not initialised": "uninitialised memory",
}


class Called(torch.nn.Module):
    """An operator's call as a module of its tensors alone."""

    def __init__(self, op: Any, spec: Any, leaves: Sequence[Any]) -> None:
        """Keep the call's structure, and what is no tensor in it."""
        super().__init__()
        self.op, self.spec = op, spec
        self.fixed = [None if isinstance(x, torch.Tensor) else x for x in leaves]
        self.places = [i for i, x in enumerate(leaves) if isinstance(x, torch.Tensor)]

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Call the operator."""
        leaves = list(self.fixed)
        for place, tensor in zip(self.places, inputs, strict=True):
            leaves[place] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return self.op(*args, **kwargs)


def operators() -> dict[str, Any]:
    """Return the operators with float32 samples by name, variants included."""
    from torch.testing._internal.common_methods_invocations import op_db

    found = [op for op in op_db if torch.float32 in op.supported_dtypes("cpu")]
    return {f"{op.name}{'.' + op.variant_test_name if op.variant_test_name else ''}": op for op in found}


def judged(task: tuple[str, int]) -> tuple[str, dict[str, Any]]:
    """Return what became of an operator: the worst outcome of its samples, and what was said."""
    name, count = task
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    signal.signal(signal.SIGALRM, _late)
    signal.alarm(SECONDS)
    try:
        op = operators()[name]
        if name.split(".")[0].replace("new_", "").startswith("empty"):
            return name, {"outcome": RANDOM, "reason": "its memory is not initialised", "samples": 0}
        samples = itertools.islice(op.sample_inputs("cpu", torch.float32, requires_grad=False), count)
        outcomes = [one(op.op, s) for s in samples]
    except TimeoutError:
        outcomes = [(FAILED, f"no end within {SECONDS} s")]
    except Exception as error:  # a sample generator that needs what is not installed
        outcomes = [(FAILED, f"{type(error).__name__}: {_line(error)}")]
    finally:
        signal.alarm(0)
    order = (FAILED, DIFFERS, REFUSED, EXPORT, RANDOM, PASSED)
    outcome, reason = min(outcomes or [(PASSED, "no samples")], key=lambda o: order.index(o[0]))
    return name, {"outcome": outcome, "reason": reason, "samples": len(outcomes)}


def one(op: Any, sample: Any) -> tuple[str, str]:
    """Return the outcome of one sample and what was said."""
    leaves, spec = pytree.tree_flatten(((sample.input, *sample.args), sample.kwargs))
    inputs = tuple(x.detach().clone() for x in leaves if isinstance(x, torch.Tensor))
    module = Called(op, spec, leaves).eval()
    expected = call_flat(module, inputs, {})
    if not agree(call_flat(module, inputs, {}), expected):
        return RANDOM, "two calls of torch's own differ"
    try:
        graph = import_model(module, inputs)
    except UnsupportedModelError as error:
        text = _line(error)
        return (EXPORT if "export" in text.lower() else REFUSED), text
    try:
        for _, run in PIPELINE:
            graph = run(graph)
        if not agree(evaluate(graph, tensors(inputs, {})), expected):
            return DIFFERS, "the graph computes something else"
        again = call_flat(export_graph(graph).module(), *fold_inputs(graph, inputs))
        return (
            (PASSED, "")
            if agree(again, expected)
            else (DIFFERS, "the exported program computes something else")
        )
    except Exception as error:  # whatever is raised is a failure to be counted
        return FAILED, f"{type(error).__name__}: {_line(error)}"


def agree(found: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Tell whether two flat results are equal, floats up to CLOSE of the largest value."""
    if len(found) != len(expected):
        return False
    return all(_close(a, b) for a, b in zip(found, expected, strict=True))


def _close(a: Any, b: Any) -> bool:
    if not isinstance(b, torch.Tensor):
        return bool(a == b)
    if not isinstance(a, torch.Tensor) or a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not (b.is_floating_point() or b.is_complex()):
        return torch.equal(a, b)
    finite = torch.isfinite(b)
    scale = float(b[finite].abs().max()) if finite.any() else 1.0
    return torch.allclose(a, b, rtol=CLOSE, atol=CLOSE * max(scale, 1e-6), equal_nan=True)


def _late(*_: object) -> None:
    raise TimeoutError


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def class_of(reason: str) -> str:
    """Return the class of what was said, or else its first line, without places in files."""
    known = next((name for pattern, name in CLASSES.items() if re.search(pattern, reason)), None)
    return known or re.sub(r"(: node '.*|\bat /\S+)", "", reason)


def page(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page: counts by outcome, then the classes of each other outcome."""
    counts = Counter(f["outcome"] for f in found.values())
    share = f"{counts[PASSED]} of {len(found)} operators pass ({100 * counts[PASSED] / len(found):.1f}%)."
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, its in found.items():
        if its["outcome"] != PASSED:
            reasons.setdefault((its["outcome"], class_of(its["reason"]).replace("|", "/")), []).append(name)
    rows = [f"| {o} | {len(n)} | {why} | {', '.join(n)} |" for (o, why), n in sorted(reasons.items())]
    parts = [
        "# torch's operator samples",
        f"Written by `python -m tests.opinfo.run --write`: {len(found)} operators of `op_db`.",
        "\n".join((__doc__ or "").split("\n\n")[-1].splitlines()),
        share,
        "\n".join(
            ["| outcome | operators |", "|---|---|", *(f"| {k} | {n} |" for k, n in counts.most_common())]
        ),
        "\n".join(["| outcome | operators | class | which |", "|---|---|---|---|", *rows]),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Judge the operators and print or write the page."""
    parser = argparse.ArgumentParser(description="torch's operator samples through the IR")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("out/opinfo"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    kept = arguments.work / "found.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    names = arguments.names or list(operators())
    quicker.install()
    left = [(n, arguments.samples) for n in names if n not in found]
    with multiprocessing.get_context("fork").Pool(arguments.jobs, maxtasksperchild=20) as pool:
        for count, (name, its) in enumerate(pool.imap_unordered(judged, left), 1):
            found[name] = its
            if count % 20 == 0 or count == len(left):
                kept.write_text(json.dumps(found))
                sys.stderr.write(f"{count} of {len(left)}\n")
    document = {n: found[n] for n in names}
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    text = page(document)
    if arguments.write:
        PAGE.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
