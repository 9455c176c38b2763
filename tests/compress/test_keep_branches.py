"""Branches that stay apart: the float function stays, int8 loses less, and segments keep their modules."""

import pytest
import torch
from torch import nn

from compiler.compress.apply import apply_plan
from compiler.compress.keep_branches import keep_branches, placed
from compiler.compress.quantize import quantized_nodes
from compiler.compress.segments import segments
from compiler.errors import UsageError
from compiler.evaluate import evaluate
from compiler.plan import Decision, Plan
from edgewright.models import load_model
from edgewright.stages import prepare
from targets import get_target

pytestmark = pytest.mark.target
TARGET = get_target("onnxruntime")


class Block(nn.Module):
    """RepVGG's: two convolutions and the identity, each behind a norm of its own, summed."""

    def __init__(self, width):
        super().__init__()
        self.wide = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.point = nn.Conv2d(width, width, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(3))

    def forward(self, x):
        wide, point, same = self.norms
        return torch.relu(wide(self.wide(x)) + point(self.point(x)) + same(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 10)
        self.blocks = nn.ModuleList(Block(8) for _ in range(3))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def prepared():
    return prepare(load_model(Net().eval(), torch.randn(1, 3, 16, 16), randomize=1))


def kept(*sites):
    return tuple(Decision(site, "branches", "kept") for site in sites)


def data(count):
    return [(torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(i)),) for i in range(count)]


def modules(graph, names):
    return {graph.node(n).origin for n in names if graph.node(n).op.startswith("aten.conv")}


def test_a_branch_stays_apart_and_is_merged_in_itself(prepared):
    assert prepared.branches.sites == ("blocks.0", "blocks.1", "blocks.2")
    made = keep_branches(prepared.graph, Plan(kept("blocks.1")), prepared.branches)
    count = [sum(n.op.startswith("aten.conv2d") for n in g.ops()) for g in (prepared.graph, made)]
    assert count == [4, 6] and sum(n.op == "aten.add.Tensor" for n in made.ops()) == 2
    assert not any("batch_norm" in n.op for n in made.ops())
    (a,), (b,) = (evaluate(g, data(1)[0]) for g in (prepared.graph, made))
    assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_operations_stay_in_the_segment_of_their_module(prepared):
    graph, cut = prepared.graph, segments(prepared.graph)
    made = keep_branches(graph, Plan(kept("blocks.0", "blocks.1")), prepared.branches)
    moved = placed(cut, graph, made)
    assert [s.site for s in moved] == [s.site for s in cut]
    for segment in moved:
        blocks = {".".join(m.split(".")[:2]) for m in modules(made, segment.nodes)}
        assert len(blocks) <= 1 and segment.site in {f"segment:{b}" for b in blocks} | {"segment:head"}
    inside = [n for s in moved for n in s.nodes]
    placeless = {n.name for n in made.ops() if not n.origin and n.name not in inside}
    assert sorted(inside) == sorted(n.name for n in made.ops() if n.name not in placeless)
    assert placed(cut, graph, graph) == cut


def test_int8_with_branches_apart_loses_less_where_the_sum_has_a_wide_range(prepared):
    sites = {s.site: s for s in segments(prepared.graph)}
    int8 = Decision("segment:blocks.1", "precision", "int8")

    def made(*more):
        plan = Plan((*more, int8))
        return apply_plan(prepared.graph, plan, TARGET, data(8), branches=prepared.branches)

    def lost(graph):
        pairs = [(evaluate(prepared.graph, x)[0], evaluate(graph, x)[0]) for x in data(12)]
        return sum(float((a - b).square().sum()) for a, b in pairs)

    together, apart = made(), made(*kept("blocks.1"))
    assert quantized_nodes(together) <= sites["segment:blocks.1"].nodes
    assert len(quantized_nodes(apart)) == 5  # three convolutions and two sums, and nothing of the neighbours
    assert {n.split(".")[1] for n in modules(apart, quantized_nodes(apart))} == {"1"}
    assert lost(apart) < 0.5 * lost(together)


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        (
            Decision("stem", "branches", "kept"),
            "branches kept at 'stem'; accepted: branches kept at blocks.0",
        ),
        (
            Decision("blocks.0", "branches", "summed"),
            "branches summed at 'blocks.0'; accepted: branches kept",
        ),
    ],
)
def test_what_cannot_be_kept_is_told_with_what_can(prepared, decision, words):
    with pytest.raises(UsageError, match=words):
        apply_plan(prepared.graph, Plan((decision,)), TARGET, (), branches=prepared.branches)


def test_a_model_without_folded_sums_says_so():
    plain = prepare(load_model(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), torch.randn(1, 3, 8, 8)))
    assert plain.branches.sites == ()
    with pytest.raises(UsageError, match="no site: this model has no sum that was folded"):
        keep_branches(plain.graph, Plan(kept("0")), plain.branches)
