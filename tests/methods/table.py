"""docs/merges.md: every method of this folder, what it merges into, and what is refused and why.

    python -m tests.methods.table           print the page
    python -m tests.methods.table --write   write it

Cases are judged as `test_methods.py` judges them. Operations before are those of the imported graph ahead of every
pass, so that what is computed from weights alone is seen to vanish. Errors are rounded up to a power
of ten and never below `FLOOR`, so that the page is the same on every machine.
"""

from __future__ import annotations

import argparse
import copy
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from compiler.errors import UnsupportedModelError
from compiler.frontends.torch_export import import_model
from compiler.merge import Attempt, Exactness, Outcome
from tests.methods.judge import compiled, histogram
from tests.methods.method import Dearer, Merge, Refusal
from tests.methods.test_methods import methods

PAGE = Path(__file__).parents[2] / "docs" / "merges.md"
FLOOR = -14  # float64 rounding over a handful of operations
TOLERANCE = 1e-9

HEAD = """# What merges, and what does not

Written by `python -m tests.methods.table --write` from the cases in `tests/methods/`, which the tests hold the
engine to. Train forms are small, with odd sizes and random statistics and parameters, compiled in float64 and
compared with the module itself on two inputs.

*Before* are the operations of the exported model ahead of every pass; *after* those of the merged graph. What only
relabels memory (reshape, expand, squeeze) is not counted. *Error* is the largest absolute difference over the
largest output, rounded up to a power of ten, at least 1e-14. Prices are those of the roofline prior, not
measurements.

| mechanism | |
|---|---|
| M1 | weights computed from weights become constants |
| M2 | affine operations in a row compose |
| M3 | branches of one input add up |
| M4 | an input that is fixed in deployment becomes a constant |
| M5 | weights averaged offline: keeps no function, so that the engine refuses it |
| M6 | a product of several factors is computed in the cheapest order |
| M7 | a scale moves along a residual stream or through a homogeneous nonlinearity |
| M8 | unused parameters go, shared ones are stored once |

Exactness: *real* is equal over the reals for every input; *shape* for the compiled shape; *argmax* keeps the ranking
only, and is opt-in.
"""


@dataclass(frozen=True)
class Found:
    """What the engine made of a case; `fault` says what kept it from an answer."""

    counts: Mapping[str, int]
    attempts: tuple[Attempt, ...] = ()
    error: float = 0.0
    fault: str = ""


def page() -> str:
    """Return the whole page."""
    return "\n".join([HEAD, *(line for module in methods() for line in section(module))])


def section(module: ModuleType) -> Iterator[str]:
    """Yield the lines of one method."""
    method, file = module.METHOD, module.__name__.rsplit(".", 1)[1]
    yield f"## {method.section} {method.name}\n"
    yield f"{method.paper} · {method.mechanism} · `tests/methods/{file}.py`\n"
    merges, refusals, dearer = (getattr(module, k, ()) for k in ("MERGES", "REFUSALS", "DEARER"))
    if merges:
        yield "| train form | before | after | exactness | error |\n|---|---|---|---|---|"
        yield from (row(case) for case in merges)
        yield ""
    if refusals:
        yield "Refused, or kept as it is:\n"
        yield from (f"- {case.name}: {refused(case)}" for case in refusals)
        yield ""
    if dearer:
        yield "Exact, and not worth it:\n"
        yield from (f"- {case.name}: {priced(case)}" for case in dearer)
        yield ""


def row(case: Merge) -> str:
    """Return a case that must merge as a row of the table."""
    found = judged(case)
    holds = not found.fault and found.error < TOLERANCE and found.counts == dict(case.after)
    after = operations(found.counts) if holds else "does not merge yet"
    measured = "same order" if case.exactness is Exactness.ARGMAX else power_of_ten(found.error)
    error = measured if holds else ""
    return f"| {case.name} | {operations(before(case))} | {after} | {case.exactness} | {error} |"


def refused(case: Refusal) -> str:
    """Return why a case is refused, in the engine's words."""
    found = judged(case)
    blamed = [
        a
        for a in found.attempts
        if a.outcome in (Outcome.REFUSED, Outcome.BARRIER) and case.reason in a.reason and case.node in a.node
    ]
    if not _keeps(found, case.keeps) or not blamed:
        return "is not refused yet"
    stays = f" Stays: {operations(case.keeps)}." if any(case.keeps.values()) else ""
    return f"{_reason(blamed[0])}.{stays}"


def priced(case: Dearer) -> str:
    """Return the price's reason to keep a case: that of the form which would cost most."""
    found = judged(case)
    kept = [
        a
        for a in found.attempts
        if a.outcome is Outcome.KEPT and case.reason in a.reason and case.node in a.node
    ]
    if not _keeps(found, case.keeps) or not kept:
        return "the price does not refuse yet"
    stays = f" Stays: {operations(case.keeps)}." if any(case.keeps.values()) else ""
    return f"{_reason(max(kept, key=lambda a: a.after.cost))}.{stays}"


def judged(case: Merge | Refusal | Dearer) -> Found:
    """Return what the engine makes of a case."""
    try:
        graph, attempts, error = compiled(case.build(), **case.settings)
    except Exception as error:  # a case that breaks the engine is a line on the page, not the end of it
        return Found({}, fault=f"{type(error).__name__}: {error}")
    return Found(histogram(graph), attempts, error)


def before(case: Merge) -> Mapping[str, int]:
    """Return the operations of the model as it is exported."""
    module, inputs = case.build()
    dynamic_shapes = case.settings.get("dynamic_shapes")
    try:
        return histogram(import_model(copy.deepcopy(module).eval(), inputs, dynamic_shapes=dynamic_shapes))
    except UnsupportedModelError:
        return {}


def operations(counts: Mapping[str, int]) -> str:
    """Return `2 conv2d, add`."""
    return ", ".join(f"{n} {op}" if n > 1 else op for op, n in counts.items() if n) or "none"


def power_of_ten(error: float) -> str:
    """Return an error rounded up: 2.1e-16 is 1e-14, 3e-12 is 1e-11."""
    return f"1e{max(FLOOR, math.ceil(math.log10(error)) if error else FLOOR)}"


def _keeps(found: Found, keeps: Mapping[str, int]) -> bool:
    counts = {op: found.counts.get(op, 0) for op in keeps}
    return not found.fault and found.error < TOLERANCE and counts == dict(keeps)


def _reason(attempt: Attempt) -> str:
    """Return a reason without source lines, which move, and with the operation to blame."""
    text = (
        attempt.reason.split("\n")[0].split(": node '")[0].replace(" (roofline prior, not a measurement)", "")
    )
    blame = f" (at `{attempt.node}`)" if attempt.node and attempt.node not in attempt.reason else ""
    return re.sub(r"\S*/(\w+\.py):\d+", r"\1", text).rstrip(".") + blame


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the page, or write it to docs/."""
    parser = argparse.ArgumentParser(prog="python -m tests.methods.table", description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"write docs/{PAGE.name}")
    if parser.parse_args(arguments).write:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        sys.stdout.write(page())


if __name__ == "__main__":
    main()
