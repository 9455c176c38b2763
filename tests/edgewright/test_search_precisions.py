"""A search's precisions: how each is rounded is chosen by cost; int8_dynamic and int4 stand beside int8."""

import json
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

from compiler.compress import rounding
from compiler.compress.decision import Setting as StructureSetting
from compiler.compress.quantize_dynamic import dynamic_nodes
from compiler.compress.quantize_int4 import int4_nodes
from compiler.search.journal import Journal
from compiler.search.space import INT8_KEPT
from compiler.target import FLOAT16, INT4, INT8, INT8_DYNAMIC
from edgewright.models import load_model
from edgewright.search_run import opened, run_search
from edgewright.search_samples import halve
from edgewright.search_structures import Structures
from edgewright.stages import prepare, silent
from tests.compress.test_keep_branches import Net, data
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


class Heads(nn.Module):
    """A layer whose rows hold no whole groups, and one whose do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 40, 3), nn.LayerNorm(40)
        self.up, self.down = nn.Linear(40, 64), nn.Linear(64, 10)
        with torch.no_grad():
            self.up.weight[::9] *= 20  # outliers, which smoothing would move

    def forward(self, x):
        return self.down(torch.relu(self.up(self.norm(self.conv(x).mean((2, 3))))))


def test_int4_is_an_option_where_whole_groups_are_and_rounded_by_what_helps(setting):
    heads, told = prepare(load_model(Heads().eval(), torch.randn(1, 3, 8, 8))), []
    halves, target = halve(heads.graph, images(16)), Paper(precisions=("float32", INT8, INT4))
    asked = replace(setting, target=target, progress=told.append, methods=("precision", "rounding"))
    with opened(heads, halves, asked) as lab:
        space, made = lab.space, lab.graph(lab.space.uniform(INT4))
    with_int4 = [site.name for site in space.sites if INT4 in site.options]
    assert with_int4 == [site.name for site in space.sites if "down" in site.name]
    assert [made.node(name).origin for name in int4_nodes(made)] == ["down"]
    assert any(line.startswith("round by int4_gptq: cost of all in int4") for line in told)
    plan, base = space.plan(space.uniform(INT4)), space.plan(space.base)
    assert set((plan.option("model", "rounding") or "").split("+")) <= {"", "awq", "int4_gptq"}
    assert base.option("model", "rounding") is None and space.choice(plan) == space.uniform(INT4)


def test_a_runtime_that_rounds_without_saying_so_has_no_dynamic_option(setting, monkeypatch, tmp_path):
    def dynamic():
        journal = Journal(tmp_path / "journal.jsonl", {})
        target = Paper(precisions=("float32", INT8, INT8_DYNAMIC))
        made = Structures(uneven().graph, (), target, (), StructureSetting(), journal, tmp_path, silent)
        return made.dynamic()

    assert dynamic() == {n.name for n in uneven().graph.ops() if n.op == "aten.linear.default"}
    monkeypatch.setattr("edgewright.search_structures.unwritten_nodes", dynamic_nodes)
    assert dynamic() == frozenset()


def test_float16_is_an_option_where_activations_stay_in_its_range(tmp_path):
    def layers(graph, precisions):
        journal, samples = Journal(tmp_path / "journal.jsonl", {}), images(2)
        target = Paper(precisions=precisions)
        made = Structures(graph, (), target, samples, StructureSetting(), journal, tmp_path, silent)
        return made.half_layers()

    graph = prepare(load_model(Heads().eval(), torch.randn(1, 3, 8, 8))).graph
    weighted = {n.name for n in graph.ops() if n.operand("weight") is not None and "norm" not in n.op}
    assert layers(graph, ("float32", FLOAT16)) == weighted
    assert layers(graph, ("float32",)) == frozenset()
    loud = Heads().eval()
    with torch.no_grad():
        loud.up.weight.mul_(6e4 / loud.up.weight.abs().max())
    assert (
        layers(prepare(load_model(loud, torch.randn(1, 3, 8, 8))).graph, ("float32", FLOAT16)) == frozenset()
    )


def test_int8_with_the_branches_apart_is_one_decision(setting):
    rep = prepare(load_model(Net().eval(), torch.randn(1, 3, 16, 16), randomize=1))
    with opened(rep, halve(rep.graph, data(16)), replace(setting, methods=("precision", "branches"))) as lab:
        space, graph = lab.space, lab.graph(lab.space.uniform(INT8_KEPT))
    blocks = [f"blocks.{i}" for i in range(3)]
    assert [s.name for s in space.sites if INT8_KEPT in s.options] == [f"segment:{b}" for b in blocks]
    choice = space.uniform(INT8_KEPT)
    assert [s.options[o] for s, o in zip(space.sites, choice, strict=True)].count(INT8_KEPT) == 3
    plan = space.plan(choice)
    assert [d.site for d in plan.decisions if d.method == "branches"] == blocks
    assert all(d.option == INT8 for d in plan.decisions if d.method == "precision")
    assert space.choice(plan) == choice
    assert sum(n.op == "aten.add.Tensor" for n in graph.ops()) == 6
    one = space.single(1, space.sites[1].options.index(INT8_KEPT))
    assert [d.site for d in space.plan(one).decisions if d.method == "branches"] == ["blocks.0"]
    assert not [d for d in space.plan(space.uniform(INT8)).decisions if d.method == "branches"]
