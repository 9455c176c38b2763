"""docs/onnx.md: the node cases of the ONNX backend suite, by operator and by what became of them.

    python -m tests.frontends.onnx.table [--write] [--jobs N] [--work DIR] [NAME ...]

Each case takes two roads: the reader and our own evaluation of the imported graph; and the reader, the
merge engine and the ONNX Runtime target. A result differs or agrees by the case's own tolerance. What is
done is kept in DIR, so that a run that was cut short goes on where it stopped. It takes about a quarter of an hour.
"""

from __future__ import annotations

import argparse
import ctypes
import fnmatch
import json
import math
import multiprocessing
import sys
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch.utils import _pytree as pytree

from compiler.errors import UnsupportedModelError
from compiler.evaluate import evaluate
from compiler.frontends.onnx.dtypes import onnx_code
from compiler.frontends.torch_export import import_model
from compiler.merge import merge
from compiler.passes import PIPELINE
from profiles import load_profile
from targets import get_target
from tests import quicker
from tests.frontends.onnx.backend import BROKEN, REFUSED, cases, run

PAGE = Path(__file__).parents[3] / "docs" / "onnx.md"
BITS = (  # numpy has no types for these
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
)
ROADS = ("imported", "onnxruntime")
COMPUTED = "computed"


def imported(module: Any, inputs: Sequence[Any]) -> list[Any]:
    """Return what the imported graph computes."""
    return evaluate(import_model(module, tuple(inputs)), _tensors(inputs))


def onnxruntime(module: Any, inputs: Sequence[Any]) -> list[Any]:
    """Return what ONNX Runtime computes of the merged graph."""
    import onnxruntime as ort

    graph = import_model(module, tuple(inputs))
    for _, run_pass in PIPELINE:
        graph = run_pass(graph)
    graph = merge(graph)[0]
    with tempfile.TemporaryDirectory() as folder:
        lowered = get_target("onnxruntime").lower({"forward": graph}, load_profile("host"), Path(folder))
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        session = ort.InferenceSession(Path(folder) / lowered.files[0], options)
        names = [i.name for i in session.get_inputs()]
        feed = {n: _fed(x) for n, x in zip(names, _tensors(inputs), strict=True)}
        return [_taken(value) for value in session.run_with_ort_values(None, feed)]


def _fed(tensor: torch.Tensor) -> Any:
    """Return a tensor as ONNX Runtime takes it; what numpy has no type for travels as its bits."""
    from onnxruntime import OrtValue

    if tensor.dtype not in BITS:
        return OrtValue.ortvalue_from_numpy(tensor.contiguous().numpy())
    whole = torch.int16 if tensor.itemsize == 2 else torch.uint8
    return OrtValue.ortvalue_from_numpy_with_onnx_type(
        tensor.contiguous().view(whole).numpy(), onnx_code(tensor.dtype)
    )


def _taken(value: Any) -> torch.Tensor:
    kind = value.data_type().removeprefix("tensor(").removesuffix(")").replace("float8e", "float8_e")
    dtype = getattr(torch, kind, None)
    if dtype not in BITS:
        found = value.numpy()
        unsigned = found.dtype == numpy.uint64  # of two kinds in numpy, of which torch knows one
        return (
            torch.from_numpy(found.view(numpy.int64)).view(torch.uint64)
            if unsigned
            else torch.from_numpy(found)
        )
    count = math.prod(value.shape())
    data = bytearray(ctypes.string_at(value.data_ptr(), count * dtype.itemsize))
    return (torch.frombuffer(data, dtype=dtype) if count else torch.empty(0, dtype=dtype)).reshape(
        value.shape()
    )


def _tensors(inputs: Sequence[Any]) -> list[torch.Tensor]:
    return [x for x in pytree.tree_leaves(inputs) if x is not None]


def judged(name: str) -> dict[str, str]:
    """Return what became of a case on each road: computed, or the class of what stands against it."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    case = cases()[name] if _CASES is None else _CASES[name]
    found = {}
    for road, go in zip(ROADS, (imported, onnxruntime), strict=True):
        try:
            run(case, go)
            found[road] = COMPUTED
        except UnsupportedModelError as error:
            found[road] = f"refused: {_class(name) or str(error).splitlines()[0]}"
        except AssertionError:
            found[road] = "differs"
        except Exception as error:  # whatever a runtime raises is a failure to be counted
            found[road] = (
                f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )
    return found


_CASES: dict[str, Any] | None = None


def _class(name: str) -> str | None:
    return next(
        (c for c, (_, names) in REFUSED.items() if any(fnmatch.fnmatch(name, n) for n in names)), None
    )


def results(names: Sequence[str], jobs: int, kept: Path) -> dict[str, dict[str, str]]:
    """Judge what is not judged yet, and return all."""
    global _CASES
    _CASES = cases()
    quicker.install()
    done: dict[str, dict[str, str]] = json.loads(kept.read_text()) if kept.exists() else {}
    left = [n for n in names if n not in done]
    kept.parent.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for count, (name, found) in enumerate(zip(left, pool.imap(judged, left), strict=True), 1):
            done[name] = found
            if count % 25 == 0 or count == len(left):
                kept.write_text(json.dumps(done))
                sys.stderr.write(f"{count} of {len(left)}\n")
    return {n: done[n] for n in names}


def page(found: dict[str, dict[str, str]]) -> str:
    """Return the page: counts by class for each road, then what is not computed and why."""
    classes: dict[str, Counter[str]] = {r: Counter(f[r].split(":")[0] for f in found.values()) for r in ROADS}
    kinds = sorted({k for c in classes.values() for k in c})
    lines = [f"| | {' | '.join(kinds)} |", "|---" * (len(kinds) + 1) + "|"]
    lines += [f"| {road} | {' | '.join(str(classes[road][k]) for k in kinds)} |" for road in ROADS]
    for road in ROADS:
        reasons: dict[str, list[str]] = defaultdict(list)
        for name, its in found.items():
            if its[road] != COMPUTED:
                reasons[its[road]].append(name)
        lines += ["", f"## {road}", "", *_listed(reasons)]
    return "\n".join([HEAD.format(count=len(found)), *lines, ""])


def _listed(reasons: dict[str, list[str]]) -> Iterable[str]:
    yield from ("| | cases | the first |", "|---|---|---|")
    for reason, names in sorted(reasons.items(), key=lambda pair: (-len(pair[1]), pair[0])):
        yield f"| {reason.replace('|', '/')[:160]} | {len(names)} | `{names[0]}` |"


HEAD = """# ONNX node cases

Written by `python -m tests.frontends.onnx.table --write`: the {count} node cases of `onnx.backend.test`, each through
the reader and our evaluation of the imported graph (*imported*), and through the reader, the merge engine and the ONNX
Runtime target (*onnxruntime*). A case whose data settles a size or an axis has those inputs frozen. *Refused* is said
before anything is built; *differs* is beyond the case's own tolerance.
"""


def main() -> None:
    """Judge, print and write."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("out/onnx_nodes"))
    arguments = parser.parse_args()
    chosen = arguments.names or sorted(set(cases()) - BROKEN)
    text = page(results(chosen, arguments.jobs, arguments.work / "cases.json"))
    sys.stdout.write(text)
    if arguments.write:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
