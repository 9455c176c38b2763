"""The fusion test on devices whose fusions are known, and a graph's total that counts fused pairs as fused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compiler.cost.composite import ENTRY, Composite, composite_graph
from compiler.cost.features import kind
from compiler.cost.fusion import Verdict, fused_kinds, fusion, fusions, pairs, parse_composite
from compiler.cost.kernel import kernel_of
from compiler.cost.latency_table import Entry, LatencyTable
from compiler.cost.reading import fit_table, read_kernel, readings
from compiler.cost.total import graph_kernels, total
from compiler.errors import UsageError
from compiler.evaluate import evaluate
from compiler.ir.graph import Graph
from compiler.records import Metric
from tests.models.graphs import through_passes

LAUNCH, FIXED = 100.0, 40.0


class Net(nn.Module):
    """conv -> relu -> conv -> hardswish, plus a residual sum behind which a relu stands."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        y = torch.relu(self.first(x))
        return torch.relu(nn.functional.hardswish(self.second(y)) + y)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return through_passes(Net().eval(), torch.randn(1, 8, 12, 12))


def entry(ns: float, width: float = 0.01) -> Entry:
    return Entry(ns, ns * (1 - width), ns * (1 + width))


def cost(kernel) -> float:
    return {"aten.conv2d.default": 1000.0}.get(kernel.op, 300.0)


def device(graph, fused=(), width=0.01, skip=()) -> LatencyTable:
    """A table of all calls and pairs of a graph; a pair of `fused` kinds takes what its first call does."""
    found = {kernel_of(graph, n).text: cost(kernel_of(graph, n)) for n in graph.ops()}
    for pair in pairs(graph):
        first, second = pair.calls
        together = (kind(first), kind(second)) in fused
        found[pair.text] = cost(first) + (0.0 if together else cost(second))
    kept = {text: entry(ns, width) for text, ns in found.items() if text not in skip}
    return LatencyTable("desk", "paper", 1, Metric.WALL, kept, Entry(FIXED, FIXED, FIXED))


CONV_RELU, POINTWISE_HARDSWISH, ADD_RELU = (
    ("conv2d", "relu"),
    ("conv2d pointwise", "hardswish"),
    ("add", "relu"),
)


def test_the_pairs_of_a_graph_are_a_call_and_what_reads_it_alone(graph) -> None:
    found = {tuple(map(kind, pair.calls)) for pair in pairs(graph)}
    # The first relu is read twice, so nothing is fused into it; the sum is fused behind one of its operands.
    assert found == {CONV_RELU, POINTWISE_HARDSWISH, ("hardswish", "add"), ADD_RELU}


def test_a_result_that_is_read_twice_is_no_pairs_first_call() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3)

        def forward(self, x):
            y = self.conv(x)
            return torch.relu(y), torch.sigmoid(y)

    assert pairs(through_passes(Twice().eval(), torch.randn(1, 8, 12, 12))) == ()


def test_a_pair_is_a_program_and_reads_back_from_its_text(graph) -> None:
    for pair in pairs(graph):
        assert parse_composite(pair.text) == pair == read_kernel(pair.text)
        made = composite_graph(pair)
        evaluate(made, [torch.randn(n.type.shape) for n in made.inputs()])
    (added,) = [p for p in pairs(graph) if p.calls[0].op == "aten.add.Tensor"]
    assert added.reads[0] == (ENTRY, ENTRY - 1)  # two values, not one twice
    assert len(composite_graph(added).inputs()) == 2
    with pytest.raises(UsageError, match="is not a composite"):
        parse_composite("aten.relu.default(self=float32[1]) of y")


@pytest.mark.parametrize("fused", [set(), {CONV_RELU}, {CONV_RELU, ADD_RELU}, {POINTWISE_HARDSWISH}])
def test_the_fusions_of_a_device_are_recovered(graph, fused) -> None:
    table = device(graph, fused)
    assert {kinds for kinds, yes in fused_kinds(fusions(table)).items() if yes} == fused


@pytest.mark.parametrize(
    ("both", "verdict"),
    [(1000, Verdict.FUSED), (1100, Verdict.FUSED), (1200, Verdict.APART), (1300, Verdict.APART)],
)
def test_the_threshold_is_half_the_smaller_call(graph, both, verdict) -> None:
    pair = pairs(graph)[0]
    found = fusion(pair, entry(1000, 1e-4), entry(300, 1e-4), entry(both, 1e-4))
    assert found.verdict is verdict
    assert found.saved.median == pytest.approx((1300 - both) / 300)


def test_a_pair_within_the_noise_is_unclear_and_counts_as_apart(graph) -> None:
    table = device(graph, {CONV_RELU}, width=0.3)
    (found,) = [f for f in fusions(table) if f.kinds == CONV_RELU]
    assert found.verdict is Verdict.UNCLEAR
    assert not fused_kinds(fusions(table))[CONV_RELU]


def test_a_total_counts_fused_pairs_as_fused(graph) -> None:
    apart, together = device(graph), device(graph, {CONV_RELU, ADD_RELU})
    plain = sum(cost(kernel_of(graph, n)) for n in graph.ops())
    assert total(graph_kernels(graph, apart), apart, None).entry.median == plain + FIXED
    found = total(graph_kernels(graph, together), together, None)
    assert found.entry.median == pytest.approx(plain - 2 * cost(kernel_of(graph, graph.ops()[1])) + FIXED)
    assert (found.measured, found.predicted, found.fused) == (len(graph.ops()), 0, 2)
    assert total(graph_kernels(graph, apart), apart, None, fixed=False).entry.median == plain


def test_a_fused_kind_that_was_not_measured_here_adds_nothing(graph) -> None:
    """Learnt from one pair, applied to another of the same kinds."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            return torch.relu(self.conv(x))

    other = through_passes(Two().eval(), torch.randn(1, 8, 20, 20))
    table = device(graph, {CONV_RELU})
    calls = graph_kernels(other, table)
    assert [c.behind is not None for c in calls] == [False, True]


def test_what_is_neither_measured_nor_like_it_leaves_no_total(graph) -> None:
    hardswish = next(kernel_of(graph, n).text for n in graph.ops() if n.op == "aten.hardswish.default")
    table = device(graph, skip={hardswish})
    found = total(graph_kernels(graph, table), table, fit_table(table))
    assert (found.entry, found.unknown) == (None, {"hardswish": 1})
    assert total((), table, None).entry is None


def test_what_is_predicted_is_told_and_widens_the_interval(graph) -> None:
    convolution = next(kernel_of(graph, n).text for n in graph.ops() if n.op == "aten.conv2d.default")
    wider = kernel_of(graph, graph.ops()[0]).text.replace("8,12,12", "8,24,24")
    table = device(graph)
    lacking = LatencyTable(
        table.device,
        table.target,
        1,
        Metric.WALL,
        {t: e for t, e in table.entries.items() if t != convolution} | {wider: entry(4000)},
        table.fixed,
    )
    model = fit_table(lacking)
    found = total(graph_kernels(graph, lacking), lacking, model)
    whole = total(graph_kernels(graph, table), table, model)
    assert (found.predicted, whole.predicted) == (1, 0)
    assert found.entry.low < found.entry.median < found.entry.high
    assert found.entry.high - found.entry.low > whole.entry.high - whole.entry.low


def test_pairs_teach_the_model_nothing_of_single_kernels(graph) -> None:
    assert not any(isinstance(r.kernel, Composite) for r in readings(device(graph)))
    assert len(readings(device(graph))) == len({kernel_of(graph, n).text for n in graph.ops()})
