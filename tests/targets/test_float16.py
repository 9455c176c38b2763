"""float16 where a target has kernels of it: near its graph, between casts, beside int8."""

import pytest
import torch

from compiler.compress.apply import apply_plan
from compiler.compress.half import half_able, half_nodes, to_half
from compiler.compress.quantize import quantized_nodes
from compiler.compress.segments import segments
from compiler.evaluate import evaluate
from compiler.plan import Decision, Plan
from compiler.target import FLOAT16, INT8
from targets import get_target, list_targets
from tests.targets.test_int8 import Net, data, snr_db

HAVE = [get_target(n) for n in list_targets() if FLOAT16 in get_target(n).precisions]
each = pytest.mark.parametrize("target", HAVE, ids=lambda t: t.name)


@pytest.fixture
def graph(imports):
    return imports(Net(), data(1))


@each
def test_float16_runs_as_its_graph_says_and_is_half_as_large(graph, target, lower):
    x, made = data(1, seed=5), to_half(graph, [n.name for n in graph.ops()])
    assert half_nodes(made) == half_able(graph) and len(half_able(graph)) == 5
    program = lower(target, made)
    (wanted,), (expected,), [found] = evaluate(graph, [x]), evaluate(made, [x]), program.infer(x)
    assert found.dtype is torch.float32
    assert snr_db(expected, found) > 45 and 45 < snr_db(wanted, found) < 90
    outside = {row["op"] for row in program.report["outside"]}
    assert not any("conv" in op or "linear" in op for op in outside), outside


@each
def test_a_plan_mixes_it_with_int8(graph, target, lower):
    x, sites = data(1, seed=5), segments(graph)
    options = [INT8 if i <= len(sites) // 2 else FLOAT16 for i, _ in enumerate(sites)]
    plan = Plan(tuple(Decision(s.site, "precision", o) for s, o in zip(sites, options, strict=True)))
    mixed = apply_plan(graph, plan, target, [[x] for x in data(8).split(1)])
    assert half_nodes(mixed) and quantized_nodes(mixed) and not half_nodes(mixed) & quantized_nodes(mixed)
    assert snr_db(evaluate(mixed, [x])[0], lower(target, mixed).infer(x)[0]) > 28
