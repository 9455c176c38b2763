"""A latency table: what it knows, what it does not know, and what is no latency."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compiler.cost.kernel import TensorSpec, kernel_call
from compiler.cost.latency_table import Entry, LatencyTable
from compiler.records import Metric


def relu(width: int):
    return kernel_call("aten.relu.default", {"self": TensorSpec((1, width), "float32", False)})


def table(**entries: Entry) -> LatencyTable:
    found = {relu(int(name[1:])).text: entry for name, entry in entries.items()}
    return LatencyTable("board (A76)", "executorch", 1, Metric.WALL, found)


def test_a_known_kernel_costs_its_median() -> None:
    known = table(w8=Entry(1250.5, 1200.0, 1300.0))
    assert known.cost(relu(8)) == 1250.5
    assert known.entry(relu(8)) == Entry(1250.5, 1200.0, 1300.0)


def test_an_unknown_kernel_has_no_price() -> None:
    known = table(w8=Entry(1250.5, 1200.0, 1300.0))
    assert known.cost(relu(9)) is None
    assert known.entry(relu(9)) is None


def test_it_covers_kernels_when_it_knows_every_one() -> None:
    known = table(w8=Entry(2.0, 1.0, 3.0), w16=Entry(4.0, 3.0, 5.0))
    assert known.covers([relu(8), relu(16), relu(8)])
    assert not known.covers([relu(8), relu(9)])
    assert known.covers([])


@pytest.mark.parametrize(
    "entry", [Entry(0.0, 0.0, 1.0), Entry(-3.0, -4.0, -2.0), Entry(2.0, 3.0, 4.0), Entry(5.0, 3.0, 4.0)]
)
def test_what_is_no_latency_is_refused(entry) -> None:
    with pytest.raises(ValueError, match=r"0 < low <= median <= high; kernel aten\.relu"):
        table(w8=entry)


def test_the_label_says_what_a_decision_rests_on() -> None:
    one = table(w8=Entry(2.0, 1.0, 3.0))
    assert one.label == "latency table of board (A76), executorch, 1 thread, 1 kernel"
    more = replace(
        one, threads=4, metric=Metric.INSTRUCTIONS, entries={**one.entries, relu(9).text: Entry(2, 1, 3)}
    )
    assert more.label == "latency table of board (A76), executorch, 4 threads, 2 kernels, instructions"
