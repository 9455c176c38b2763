"""int4 on every target that has kernels of it: as its graph says, smaller, and with what is not int4 beside."""

import pytest
import torch
from torch import nn

from compiler.compress.apply import apply_plan
from compiler.compress.quantize import quantized_nodes
from compiler.compress.quantize_int4 import int4_able, int4_nodes, quantize_int4
from compiler.compress.segments import segments
from compiler.errors import UnsupportedModelError
from compiler.evaluate import evaluate
from compiler.plan import Decision, Plan
from compiler.target import INT4, INT8
from edgewright.models import load_model
from edgewright.stages import prepare
from targets import get_target, list_targets
from tests.targets.test_int8 import snr_db

HAVE = [get_target(n) for n in list_targets() if INT4 in get_target(n).precisions]
each = pytest.mark.parametrize("target", HAVE, ids=lambda t: t.name)
EXACT_DB = 80.0  # of a layer against its graph: another rounding of activations would give about 45
DEEP_DB = 30.0  # of layers in a row: a float's last bit turns a code of the next layer's activations


class Tokens(nn.Module):
    """A norm with outliers, a gated pair of layers, a layer of odd width and a head that is read twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(64)
        self.up, self.gate, self.odd = nn.Linear(64, 96), nn.Linear(64, 96, bias=False), nn.Linear(96, 40)
        self.wide, self.head = nn.Linear(40, 128), nn.Linear(128, 128)
        with torch.no_grad():
            self.norm.weight[::9] *= 6
            self.up.weight.mul_(torch.logspace(-1, 0.5, 96)[:, None])

    def forward(self, x):
        h = self.norm(x)
        h = self.odd(nn.functional.silu(self.up(h)) * self.gate(h))
        return self.head(torch.relu(self.head(self.wide(h))))


def data(seed=1):
    return torch.randn(2, 7, 64, generator=torch.Generator().manual_seed(seed)) + 0.3


@pytest.fixture(scope="module")
def graph():
    """Merged, as all that is compressed: LiteRT's converter would fold the norm into weights itself."""
    return prepare(load_model(Tokens().eval(), data())).graph


@each
def test_a_layer_computes_what_its_graph_says(target, lower, imports):
    torch.manual_seed(4)
    graph, x = imports(nn.Linear(64, 96), data()), data(5)
    x[0] *= 30  # ranges are of a row
    quantized = quantize_int4(graph, int4_able(graph), target.rounds_rows)
    assert snr_db(evaluate(quantized, [x])[0], lower(target, quantized).infer(x)[0]) > EXACT_DB


@each
def test_int4_runs_as_its_graph_says(graph, target, lower):
    assert len(int4_able(graph)) == 5  # all but `wide`, whose rows hold no whole groups
    quantized, x = quantize_int4(graph, int4_able(graph), target.rounds_rows), data(5)
    (original,), (expected,) = (evaluate(g, [x]) for g in (graph, quantized))
    program = lower(target, quantized)
    [found] = program.infer(x)
    assert snr_db(expected, found) > DEEP_DB
    assert 8 < snr_db(original, found) < 40
    assert not program.report["outside"]
    assert program.report["program_bytes"] < 0.45 * lower(target, graph).report["program_bytes"]


@each
def test_a_plan_mixes_int4_with_int8_and_rounds_it_better(graph, target, lower):
    sites, x = segments(graph), data(5)
    options = [INT8 if i == 0 else INT4 for i, _ in enumerate(sites)]
    decisions = [Decision(s.site, "precision", o) for s, o in zip(sites, options, strict=True)]
    decisions = [d for d in decisions if d.option == INT8 or _has_int4(graph, sites, d.site)]
    batches = [(data(seed),) for seed in range(10, 18)]
    nearest = apply_plan(graph, Plan(tuple(decisions)), target, batches)
    assert int4_nodes(nearest) and not int4_nodes(nearest) & quantized_nodes(nearest)
    [expected], [found] = evaluate(nearest, [x]), lower(target, nearest).infer(x)
    assert snr_db(expected, found) > 25
    better = Plan((*decisions, Decision("model", "rounding", "int4_gptq")))
    (wanted,) = evaluate(graph, [x])
    (rounded,) = evaluate(apply_plan(graph, better, target, batches), [x])
    assert snr_db(wanted, rounded) > snr_db(wanted, expected)


def _has_int4(graph, sites, name):
    return any(s.site == name and s.nodes & int4_able(graph) for s in sites)


def test_a_target_without_kernels_of_it_refuses_it(graph):
    plan = Plan((Decision(segments(graph)[0].site, "precision", INT4),))
    with pytest.raises(UnsupportedModelError, match="'tvm' has no precision int4; it has float32, int8"):
        apply_plan(graph, plan, get_target("tvm"), ())
