"""Structural methods as one: their order, what is refused, and where new operations belong."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from compiler.compress import mpo, structure
from compiler.compress.decision import Offer, Setting
from compiler.compress.healing import healed, healers_of
from compiler.compress.segments import carried, segments
from compiler.compress.structure import apply_structure, check_methods, structure_offers
from compiler.errors import UsageError
from compiler.evaluate import evaluate
from compiler.frontends.torch_export import import_model
from compiler.ir.edit import Editor
from compiler.passes import PIPELINE
from compiler.plan import Decision, Plan
from tests.models.small import compile_graph


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        for block in self.blocks:
            x = torch.relu(block(x))
        return self.head(x)


@pytest.fixture(scope="module")
def graph():
    torch.manual_seed(0)
    made = import_model(Net().eval(), (torch.randn(2, 6),))
    for _, run in PIPELINE:
        made = run(made)
    return made


def factored(name, log):
    """A method that writes each linear of a module as two, exactly: W = W I."""

    def linears(graph):
        return [n for n in graph.ops() if n.op == "aten.linear.default" and n.origin.startswith("blocks")]

    def offers(graph, setting):
        return tuple(Offer(f"{name}:{n.origin}", ("full",), frozenset({n.name})) for n in linears(graph))

    def apply(graph, choices, setting):
        log.append((name, dict(choices)))
        editor = Editor(graph)
        for node in linears(graph):
            if choices.get(f"{name}:{node.origin}") == "full":
                eye = editor.constant(torch.eye(6), "eye")
                operands = {"input": node.operand("input"), "weight": eye, "bias": None}
                made = editor.op(node.op, operands, node.types, f"{node.name}_{name}", before=node.name)
                changed = tuple((k, made if k == "input" else v) for k, v in node.operands)
                editor.update(dataclasses.replace(node, operands=changed))
        return editor.finish()

    return SimpleNamespace(METHOD=name, offers=offers, apply=apply)


@pytest.fixture
def log(monkeypatch):
    found = []
    monkeypatch.setattr(structure, "ORDER", (factored("first", found), factored("second", found)))
    return found


def test_offers_carry_their_method(graph, log):
    found = structure_offers(graph, Setting())
    assert [m for m, _ in found] == ["first"] * 4 + ["second"] * 4
    assert found[0][1].site == "first:blocks.0"


def test_methods_run_in_their_own_order_not_the_plans(graph, log):
    plan = Plan((Decision("second:blocks.1", "second", "full"), Decision("first:blocks.0", "first", "full")))
    made = apply_structure(graph, plan, Setting())
    assert [name for name, _ in log] == ["first", "second"]
    assert len(made.ops()) == len(graph.ops()) + 2
    x = torch.randn(2, 6, dtype=torch.float64)
    own, other = (evaluate(g, [x.float()], torch.float64)[0] for g in (graph, made))
    assert torch.allclose(own, other, atol=1e-12)
    kept = {n.name for n in graph.ops()}
    assert kept <= {n.name for n in made.ops()}


def test_nothing_structural_is_the_graph_itself(graph, log):
    plan = Plan((Decision("first:blocks.0", "first", "keep"), Decision("x", "precision", "int8")))
    assert apply_structure(graph, plan, Setting()) is graph
    assert not log


def test_an_unknown_method_is_refused_with_those_there_are(log):
    with pytest.raises(UsageError, match="methods are: first, second, precision"):
        check_methods(Plan((Decision("a", "shrink", "half"),)), ("precision",))


def test_a_new_operation_goes_with_the_latest_it_reads_from(graph, log):
    cut = segments(graph, 4, 5)
    plan = Plan(tuple(Decision(f"first:blocks.{i}", "first", "full") for i in (0, 2)))
    made = apply_structure(graph, plan, Setting())
    found = carried(cut, made)
    names = [n.name for n in made.ops()]
    assert sorted(n for s in found for n in s.nodes) == sorted(names)
    assert [s.site for s in found] == [s.site for s in cut]
    home = {n: s.site for s in found for n in s.nodes}
    for before, after in zip(cut, found, strict=True):
        assert before.nodes <= after.nodes
    first, second = (n for n in names if n.endswith("_first"))
    assert home[first] == cut[0].site  # reads the input alone: with the linear that reads it
    reads = next(v.node for _, v in made.node(second).values() if v.node in home)
    assert home[second] == home[reads] != home[next(u.name for u in made.users(second))]


def test_a_removed_operation_leaves_its_segment(graph):
    cut = segments(graph, 4, 5)
    last = cut[-1].nodes
    assert (
        not carried((*cut[:-1], dataclasses.replace(cut[-1], nodes=last | {"gone"})), graph)[-1].nodes - last
    )


def test_healers_stand_in_one_decision_of_the_plan():
    plan = Plan((Decision("a", "precision", "int8"),))
    assert healers_of(plan) == ()
    both = healed(plan, ("one", "two"))
    assert both.text().splitlines()[-1] == "model  heal  one+two"
    assert healers_of(both) == ("one", "two")
    assert healed(both, ()) == plan


def test_weights_factored_for_their_bytes_stay_factored() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 8)).eval()
    graph = compile_graph(net, torch.randn(2, 256))
    [offer] = mpo.offers(graph, Setting(bytes_limited=True))
    plan = Plan((Decision(offer.site, mpo.METHOD, offer.options[-1]),))
    made = apply_structure(graph, plan, Setting())
    stored = [sum(c.tensor.numel() for c in g.constants.values()) for g in (graph, made)]
    assert stored[1] < 0.5 * stored[0]
    x = torch.randn(2, 256)
    [direct] = evaluate(mpo.apply(graph, {offer.site: offer.options[-1]}, Setting()), [x], torch.float64)
    [found] = evaluate(made, [x], torch.float64)
    assert torch.allclose(found, direct, rtol=1e-5, atol=1e-6)
