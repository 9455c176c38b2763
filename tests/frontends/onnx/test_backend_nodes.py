"""Every node case of the ONNX backend suite: computed as ONNX says, or refused for a reason."""

from __future__ import annotations

import re

import pytest
import torch
from torch.utils import _pytree as pytree

from compiler.errors import UnsupportedModelError
from compiler.evaluate import evaluate
from compiler.frontends.torch_export import import_model
from tests.frontends.onnx.backend import BROKEN, cases, refused, run

pytestmark = pytest.mark.target

CASES = cases()
# Exporting takes a third of a second: one case of each operator stands for it in a first look.
EXPORTED = sorted(
    {next(iter(c.model.graph.node)).op_type: name for name, c in sorted(CASES.items())}.values()
)


def walked(module, inputs):
    with torch.no_grad():
        return pytree.tree_leaves(module(*inputs), is_leaf=lambda x: x is None)


def imported(module, inputs):
    graph = import_model(module, tuple(inputs))
    return evaluate(graph, [x for x in pytree.tree_leaves(inputs) if x is not None])


@pytest.mark.parametrize("name", [n for n in CASES if not refused(n) and n not in BROKEN])
def test_is_computed(name):
    run(CASES[name], walked)


@pytest.mark.parametrize("name", [n for n in CASES if refused(n)])
def test_is_refused_for_its_reason(name):
    with pytest.raises(UnsupportedModelError, match=re.compile(refused(name))):
        run(CASES[name], walked)


@pytest.mark.parametrize("name", [n for n in EXPORTED if not refused(n) and n not in BROKEN])
def test_is_imported(name):
    run(CASES[name], imported)


def test_nearly_all_cases_are_computed():
    assert sum(not refused(n) for n in CASES) - len(BROKEN) >= 1700
