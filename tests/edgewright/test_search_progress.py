"""How a search is shown while it runs: the state its events lead to, in a table that stays and in lines."""

import io
from functools import reduce

import pytest
from rich.console import Console
from rich.live import Live

from compiler.search.events import Finished, Measured, Started
from edgewright.cli.search_live import SearchDisplay
from edgewright.search_progress import SearchState, advance, line, rows

EVENTS = [
    Started("net", "0.7x", 9, left=20),
    Measured("float32", 1.0, 1.0, 1.0, within=False, cost=0.0, left=19),
    Measured("int8", 0.5, 0.49, 0.51, within=True, cost=2e-3, left=18),
    Measured("int8 in 1,2", 0.6, 0.59, 0.61, within=True, cost=1e-3, predicted=0.66, left=17),
    Measured("int8 in 1", 0.8, 0.79, 0.81, within=False, cost=1e-5, predicted=0.68, left=16),
]


def after(events):
    return reduce(advance, events, SearchState())


def test_the_best_so_far_is_the_cheapest_within_the_budget():
    assert after(EVENTS[:2]).best is None
    assert after(EVENTS[:3]).best.variant == "int8"
    assert after(EVENTS).best.variant == "int8 in 1,2"


def test_of_equal_costs_the_faster_is_better():
    slower = Measured("slower", 0.69, 0.68, 0.695, within=True, cost=1e-3)
    assert after([*EVENTS, slower]).best.variant == "int8 in 1,2"


def test_the_model_is_judged_by_what_it_said_beforehand():
    state = after(EVENTS)
    assert state.errors == pytest.approx((0.1, -0.15))
    assert state.error == pytest.approx(0.125)
    assert ("model error", "12.5% on average, -15.0% the last time") in rows(state)
    assert ("model error", "nothing predicted yet") in rows(after(EVENTS[:3]))


def test_the_table_tells_budget_best_measurements_left():
    told = dict(rows(after(EVENTS)))
    assert told["budget"] == "0.7x"
    assert told["best so far"] == "int8 in 1,2: 0.610x at most, cost 0.001"
    assert (told["measured"], told["measurements left"]) == ("4", "16")
    assert dict(rows(after([Started("net", "5ms", 3)])))["measurements left"] == "no bound"


def test_each_event_is_one_line_of_a_log():
    lines = [line(e) for e in [*EVENTS, Finished("int8 in 1,2", 0.61, 1e-3)]]
    assert lines[0] == "net: 9 sites, budget 0.7x, 20 measurements at most"
    assert lines[3] == (
        "measured int8 in 1,2: 0.600x (0.590 to 0.610), predicted 0.660x, cost 0.001: within budget, "
        "17 measurements left"
    )
    assert "over budget" in lines[4]
    assert lines[-1] == "chosen int8 in 1,2: 0.610x at most, cost 0.001"
    assert not any("\n" in text for text in lines)


def test_outside_of_a_terminal_every_text_and_event_is_a_line():
    out = io.StringIO()
    display = SearchDisplay(Console(file=out, highlight=False))
    display.progress("lower: 3 of 9")
    for event in EVENTS:
        display.watch(event)
    written = out.getvalue().splitlines()
    assert len(written) == 1 + len(EVENTS)
    assert written[0].endswith("search: lower: 3 of 9")


def test_on_a_terminal_the_table_stays_in_place():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, highlight=False)
    display = SearchDisplay(console)
    with Live(display.table(), console=console, auto_refresh=False, transient=True) as live:
        display.live = live
        for event in EVENTS:
            display.watch(event)
        display.progress("measure [8] rounds")
        live.refresh()
    shown = out.getvalue()
    assert "int8 in 1,2: 0.610x at most" in shown
    assert "measure [8] rounds" in shown
    assert "predicted 0.660x" not in shown  # no line of a log
