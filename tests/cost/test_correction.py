"""Sums of kernels corrected by whole programs whose graphs the table keeps."""

import pytest
import torch
from torch import nn

from compiler.cost.correction import corrected, table_correction
from compiler.cost.latency_table import Entry, LatencyTable
from compiler.cost.program import WholeProgram, read_program
from compiler.cost.total import graph_kernels
from compiler.errors import UsageError
from compiler.frontends.torch_export import import_model
from compiler.records import Metric

EACH_NS, GAP_NS = 1000.0, 300.0  # a kernel, and what a runtime adds between two


def chain(layers, width=4):
    """A net of linear layers and activations."""
    steps = [step for _ in range(layers) for step in (nn.Linear(width, width), nn.ReLU())]
    return import_model(nn.Sequential(*steps).eval(), (torch.randn(1, width),))


def entry(ns):
    return Entry(ns, 0.99 * ns, 1.01 * ns)


def table(layers):
    graphs = [chain(n) for n in layers]
    calls = [c.kernel for g in graphs for c in graph_kernels(g)]
    programs = {WholeProgram(g).text: (WholeProgram(g), whole_ns(g)) for g in graphs}
    return LatencyTable(
        "desk",
        "paper",
        1,
        Metric.WALL,
        {k.text: entry(EACH_NS) for k in calls} | {t: entry(ns) for t, (_, ns) in programs.items()},
        programs={t: p.written for t, (p, _) in programs.items()},
    )


def whole_ns(graph):
    count = len(graph_kernels(graph))
    return EACH_NS * count + GAP_NS * (count - 1)


def test_a_program_reads_back_without_its_weights():
    graph = chain(3)
    back = read_program(WholeProgram(graph).written)
    assert back == WholeProgram(graph)
    assert [c.kernel for c in graph_kernels(back.graph)] == [c.kernel for c in graph_kernels(graph)]
    with pytest.raises(UsageError, match="line 2"):
        read_program("graph {\n  nonsense\n}\n")


def test_whole_programs_tell_what_is_between_kernels():
    known, other = table((2, 3, 5, 8)), chain(6)
    correction = table_correction(known, None)
    assert correction.programs == 4
    found = corrected(other, known, correction, None)
    assert found.median == pytest.approx(whole_ns(other), rel=0.01)
    assert found.low <= found.median <= found.high


def test_too_few_programs_and_unknown_kernels_correct_nothing():
    assert table_correction(table((2, 3)), None) is None
    known = table((2, 3, 5))
    assert corrected(chain(2, width=8), known, table_correction(known, None), None) is None
