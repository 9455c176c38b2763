"""A search's precisions: how each is rounded is chosen by cost; int8_dynamic and int4 stand beside int8."""

import json
from dataclasses import replace
from functools import cache

import pytest
import torch

from compiler.compress import rounding
from compiler.compress.decision import Setting as StructureSetting
from compiler.search.journal import Journal
from compiler.target import INT8, INT8_DYNAMIC
from edgewright.models import load_model
from edgewright.search_run import opened, run_search
from edgewright.search_samples import halve
from edgewright.search_structures import Structures
from edgewright.stages import prepare, silent
from tests.compress.test_rounding import Uneven
from tests.edgewright.test_searching import Paper, calibrations, images, setting

__all__ = ["calibrations", "setting"]  # fixtures

pytestmark = pytest.mark.target


@cache
def uneven():
    torch.manual_seed(0)
    return prepare(load_model(Uneven().eval(), torch.randn(1, 3, 8, 8)))


def test_int8_is_rounded_by_what_helps_and_a_search_that_goes_on_rounds_as_it_did(setting, monkeypatch):
    monkeypatch.setattr(rounding, "STEPS", rounding.STEPS[:1])
    halves, told = halve(uneven().graph, images(16)), []
    with opened(uneven(), halves, replace(setting, progress=told.append)) as lab:
        assert lab.space.rounding == ()  # precision is taken alone
    for _ in range(2):
        asked = replace(setting, progress=told.append, methods=("precision", "rounding"))
        with opened(uneven(), halves, asked) as lab:
            space = lab.space
    assert sum(line.startswith("round by equalize") for line in told) == 1
    plan = space.plan(space.uniform(INT8))
    assert plan.option("model", "rounding") == "equalize"
    assert space.choice(plan) == space.uniform(INT8)
    assert space.plan(space.base).option("model", "rounding") is None


def test_dynamic_int8_is_an_option_where_a_linear_layer_is(setting, monkeypatch):
    monkeypatch.setattr(rounding, "STEPS", ())
    target = Paper(precisions=("float32", INT8, INT8_DYNAMIC))
    result = run_search(uneven(), halve(uneven().graph, images(16)), replace(setting, target=target))
    options = [site.options for site in result.space.sites]
    assert options[0] == ("float32", INT8) and options[-1] == ("float32", INT8, INT8_DYNAMIC)
    tried = {t["variant"] for t in json.loads((setting.out / "tried.json").read_text())["tried"]}
    assert tried >= {"float32", INT8} and any(INT8_DYNAMIC in variant for variant in tried)


def test_a_runtime_that_rounds_without_saying_so_has_no_dynamic_option(setting, monkeypatch, tmp_path):
    def dynamic():
        journal = Journal(tmp_path / "journal.jsonl", {})
        target = Paper(precisions=("float32", INT8, INT8_DYNAMIC))
        made = Structures(uneven().graph, (), target, (), StructureSetting(), journal, tmp_path, silent)
        return made.dynamic()

    assert dynamic() == {n.name for n in uneven().graph.ops() if n.op == "aten.linear.default"}
    monkeypatch.setattr("edgewright.search_structures.has_unwritten_rounding", lambda graph: True)
    assert dynamic() == frozenset()
