"""Every published method in this folder merges, is refused or is kept as its file states."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from types import ModuleType

import pytest

import tests.methods
from compiler.merge import Attempt, Outcome
from tests.methods.judge import compiled, histogram
from tests.methods.method import Dearer, Merge, Refusal


def methods() -> list[ModuleType]:
    """Return the modules of this folder that state a METHOD, by section."""
    names = [m.name for m in pkgutil.iter_modules(tests.methods.__path__) if not m.name.startswith("test_")]
    modules = [importlib.import_module(f"tests.methods.{n}") for n in names]
    found = [m for m in modules if hasattr(m, "METHOD")]
    return sorted(found, key=lambda m: [int(p) for p in m.METHOD.section.split(".")])


def _marks(case: object) -> list[pytest.MarkDecorator]:
    gap = getattr(case, "gap", "")
    return [pytest.mark.notimpl(gap)] if gap else []


def stated(kind: str) -> list[object]:
    """Return the cases of a kind over all methods, named."""
    return [
        pytest.param(case, id=f"{module.__name__.rsplit('.', 1)[1]} {case.name}", marks=_marks(case))
        for module in methods()
        for case in getattr(module, kind, ())
    ]


def said(case: Refusal | Dearer, attempts: Sequence[Attempt], *outcomes: Outcome) -> str:
    """Return the reasons of some outcomes, those at the node that a case blames."""
    return "\n".join(a.reason for a in attempts if a.outcome in outcomes and case.node in a.node)


@pytest.mark.parametrize("case", stated("MERGES"))
def test_it_merges(case: Merge) -> None:
    graph, attempts, error = compiled(case.build(), **case.settings)
    assert error < 1e-9
    assert histogram(graph) == dict(case.after), "\n".join(
        f"{a.outcome} {a.root}: {a.reason}" for a in attempts
    )
    done = {a.exactness for a in attempts if a.outcome is Outcome.MERGED}
    assert done <= {case.exactness, "bitwise", "real"}
    assert not done if case.folds else case.exactness in done


@pytest.mark.parametrize("case", stated("REFUSALS"))
def test_it_is_refused(case: Refusal) -> None:
    graph, attempts, error = compiled(case.build(), **case.settings)
    assert error < 1e-9
    counts = histogram(graph)
    assert {op: counts.get(op, 0) for op in case.keeps} == dict(case.keeps)
    assert case.reason in said(case, attempts, Outcome.REFUSED, Outcome.BARRIER)


@pytest.mark.parametrize("case", stated("DEARER"))
def test_the_price_refuses(case: Dearer) -> None:
    graph, attempts, error = compiled(case.build(), **case.settings)
    assert error < 1e-9
    counts = histogram(graph)
    assert {op: counts.get(op, 0) for op in case.keeps} == dict(case.keeps)
    assert case.reason in said(case, attempts, Outcome.KEPT)
