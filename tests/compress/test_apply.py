"""A plan's decisions: read off one all-int8 graph, equal to quantizing that part alone."""

import pytest
import torch
from torch import nn

from compiler.compress.apply import apply_plan, calibrate, choose, nodes_in
from compiler.compress.quantize import ir_filter, quantize_int8, quantized_nodes
from compiler.compress.segments import segments
from compiler.errors import UnsupportedModelError, UsageError
from compiler.evaluate import evaluate
from compiler.frontends.torch_export import import_model
from compiler.passes import PIPELINE
from compiler.plan import Decision, Plan
from targets import get_target

pytestmark = pytest.mark.target
TARGET = get_target("executorch")


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.wide = nn.Conv2d(width, 2 * width, 1)
        self.narrow = nn.Conv2d(2 * width, width, 3, padding=1)

    def forward(self, x):
        return x + self.narrow(torch.relu(self.wide(x)))


class Net(nn.Module):
    """Residual blocks, one sigmoid that no kernel takes in int8, and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(Block(8) for _ in range(4))
        self.gate = nn.Sigmoid()
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(self.gate(x).mean((2, 3)))


@pytest.fixture(scope="module")
def graph():
    torch.manual_seed(0)
    made = import_model(Net().eval(), (torch.randn(1, 3, 8, 8),))
    for _, run in PIPELINE:
        made = run(made)
    return made


@pytest.fixture(scope="module")
def batches():
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(1, 3, 8, 8, generator=generator),) for _ in range(4)]


@pytest.fixture(scope="module")
def calibrated(graph, batches):
    return calibrate(graph, TARGET.quantizer, batches)


def distance(a, b, batches):
    return max(float((evaluate(a, x)[0] - evaluate(b, x)[0]).abs().max()) for x in batches)


def test_choosing_everything_is_the_all_int8_graph(calibrated, batches):
    found = choose(calibrated, [n.name for n in calibrated.graph.ops()])
    assert distance(found, calibrated.full, batches) == 0
    assert found.histogram() == calibrated.full.histogram()


@pytest.mark.parametrize("picked", [{0}, {2}, {1, 4}, {0, 3, 5}])
def test_a_part_equals_quantizing_that_part_alone(graph, calibrated, batches, picked):
    chosen = frozenset().union(*(s.nodes for i, s in enumerate(segments(graph)) if i in picked))
    alone = quantize_int8(graph, chosen, TARGET.quantizer(ir_filter(chosen)), batches)
    found = choose(calibrated, chosen)
    assert distance(found, alone, batches) == 0
    assert distance(found, graph, batches) > 0
    assert quantized_nodes(found) == quantized_nodes(alone)


def test_what_is_not_chosen_keeps_its_float_weights(graph, calibrated):
    chosen = segments(graph)[2].nodes
    found = choose(calibrated, chosen)
    for node in graph.ops():
        if node.operand("weight") is not None:
            weight = found.node(node.name).operand("weight").node
            assert (weight in graph.constants) == (node.name not in chosen)


def test_a_value_is_quantised_once_and_float_readers_share_one_dequantise(calibrated):
    found = choose(calibrated, ["conv2d", "relu"])  # the stem's output feeds a convolution and a residual sum
    quantised = [n.name for n in found.users("relu")]
    assert quantised == ["relu_q"]
    [shared] = found.users("relu_q")
    assert {n.name for n in found.users(shared.name)} == {"conv2d_1", "add"}


def test_an_int8_reader_has_a_dequantise_of_its_own(calibrated):
    found = choose(calibrated, ["conv2d", "relu", "conv2d_1", "relu_1"])
    assert [n.name for n in found.users("relu")] == ["relu_q"]
    readers = [{r.name for r in found.users(n.name)} for n in found.users("relu_q")]
    assert sorted(map(sorted, readers)) == [["add"], ["conv2d_1"]]


def test_nothing_that_can_be_int8_is_refused(calibrated):
    with pytest.raises(UnsupportedModelError, match="none of the 1 chosen"):
        choose(calibrated, ["sigmoid"])


def test_a_plan_is_replayed(graph, calibrated, batches):
    sites = segments(graph)
    plan = Plan(
        tuple(Decision(s.site, "precision", "int8" if i == 2 else "float32") for i, s in enumerate(sites))
    )
    assert nodes_in(sites, plan) == sites[2].nodes
    assert apply_plan(graph, plan, TARGET, batches) == choose(calibrated, sites[2].nodes)


def test_a_plan_that_keeps_all_needs_no_data(graph):
    assert apply_plan(graph, Plan(), TARGET, ()) is graph
    kept = Plan((Decision(segments(graph)[0].site, "precision", "float32"),))
    assert apply_plan(graph, kept, TARGET, ()) is graph


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        (("segment:nowhere", "precision", "int8"), "segment:stem"),
        (("segment:stem", "rank", "int8"), "methods are: .*precision, branches, rounding, heal"),
        (("segment:stem", "precision", "int2"), "precision float32, float16, int8, int8_dynamic or int4"),
        (("segment:stem", "precision", "int8"), "--calibration"),
    ],
)
def test_a_decision_that_cannot_be_taken_is_told(graph, decision, message):
    site = segments(graph)[0].site if decision[0] == "segment:stem" else decision[0]
    plan = Plan((Decision(site, *decision[1:]),))
    with pytest.raises(UsageError, match=message):
        apply_plan(graph, plan, TARGET, ())
