"""Who wins a cell of the search benchmark, by made-up results."""

import json

import pytest
from numpy.random import default_rng

from benchmarks.cells.crossed import Crossing, Standing, cross_table, read_crossing, standing
from benchmarks.cells.judge import (
    OURS,
    Cell,
    Entry,
    Verdict,
    best_rival,
    difference,
    read_cell,
    summary,
    verdict,
)
from benchmarks.cells.run import Place
from benchmarks.cells.table import COLUMNS, table


def entry(kl=0.1, ratio=0.55, searched=None, spread=0.02, width=0.01, samples=400, seed=0, plan=""):
    """A variant whose divergences scatter around their mean by a spread, the same scatter for the same seed."""
    scatter = default_rng(seed).normal(size=samples)
    divergences = kl + spread * (scatter - scatter.mean())
    high = ratio + width if searched is None else searched
    return Entry(ratio, ratio - width, ratio + width, high, 0.9, tuple(divergences), 14, plan)


def cell(budget=0.6, refusals=(), **entries):
    return Cell("net", "local", budget, 0.95, entries, dict.fromkeys(refusals, "no variant meets the budget"))


def test_the_lowest_divergence_within_the_budget_wins():
    assert verdict(cell(ours=entry(0.1), int8=entry(0.2), tpe=entry(0.3))) is Verdict.WON


def test_a_clearly_higher_divergence_than_a_rivals_loses():
    assert verdict(cell(ours=entry(0.12), tpe=entry(0.1))) is Verdict.LOST


def test_a_divergence_within_the_noise_of_the_lowest_wins():
    assert verdict(cell(ours=entry(0.1005, seed=1), tpe=entry(0.1))) is Verdict.WON


def test_the_noise_is_of_paired_samples():
    """The same gap that unpaired scatter hides counts where both scatter alike."""
    assert verdict(cell(ours=entry(0.1005), tpe=entry(0.1))) is Verdict.LOST


def test_a_rival_over_budget_does_not_count():
    assert verdict(cell(ours=entry(0.2), tpe=entry(0.01, ratio=0.7))) is Verdict.WON


def test_ours_over_budget_is_no_win_whatever_it_lost():
    assert verdict(cell(ours=entry(0.0, ratio=0.7))) is Verdict.OVER


def test_what_the_search_measured_over_budget_is_not_within_it():
    assert not entry(ratio=0.55, searched=0.61).within(0.6)


def test_measured_again_an_interval_that_reaches_the_budget_does_not_contradict():
    assert entry(ratio=0.605, searched=0.599, width=0.01).within(0.6)
    assert not entry(ratio=0.62, searched=0.599, width=0.01).within(0.6)


def test_a_cell_nobody_meets_is_infeasible_where_ours_says_so():
    assert verdict(cell(refusals=[OURS], int8=entry(ratio=0.8))) is Verdict.INFEASIBLE


def test_a_cell_a_rival_meets_is_lost_where_ours_found_nothing():
    assert verdict(cell(refusals=[OURS], tpe=entry(0.5))) is Verdict.LOST


def test_the_best_rival_is_the_one_within_the_budget_that_lost_least():
    found = cell(ours=entry(0.0), tpe=entry(0.3), nsga2=entry(0.2), random=entry(0.1, ratio=0.9))
    assert best_rival(found, ("random", "tpe", "nsga2")) == "nsga2"
    assert best_rival(found, ("random",)) is None and best_rival(found, ("missing",)) is None


def test_unpaired_divergences_are_refused():
    with pytest.raises(ValueError, match="3 and on 2 samples"):
        difference([0.1] * 3, [0.1] * 2)


def test_a_cell_is_read_back_from_its_document():
    made = cell(refusals=["random"], ours=entry(0.1), tpe=entry(0.2))
    document = json.loads(json.dumps(made.document()))
    assert read_cell(document) == made and document["verdict"] == "won"


def test_infeasible_cells_are_not_counted():
    won, lost = cell(ours=entry(0.1)), cell(ours=entry(0.2), tpe=entry(0.1))
    nobody = cell(refusals=[OURS])
    assert summary([won, won, lost, nobody]) == "Ours wins 2 of 3 cells; 1 lost; 1 infeasible."


def test_the_table_shows_ours_uniform_int8_and_the_best_of_the_others():
    entries = {
        OURS: entry(0.1),
        "uniform int8": entry(0.4, ratio=0.7),
        "TPE": entry(0.2),
        "random": entry(0.3),
    }
    text = table([cell(**entries), cell(refusals=[OURS, "TPE"])])
    lines = text.splitlines()
    assert all(line.count("|") == len(COLUMNS) + 1 for line in lines if line.startswith("|"))
    assert "| net | 0.6x | 0.950 | ours | 0.550x (0.540 to 0.560) | yes | 0.900 | 0.1 | 14 | won |" in lines
    assert "uniform int8 | 0.700x (0.690 to 0.710) | no" in text
    assert "best of the others: TPE" in text and "0.3" not in text
    assert (
        "best of the others: none within | - | no" in text
        and lines[-1] == "Ours wins 1 of 1 cells; 1 infeasible."
    )


def crossing(own, other):
    return Crossing("net", 0.6, "here", "there", own, other)


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        (entry(0.2, plan="a"), entry(0.1, ratio=0.7, plan="b"), Standing.BETTER),  # over the budget here
        (entry(0.1, plan="a"), entry(0.2, plan="b"), Standing.BETTER),
        (entry(0.2, plan="a"), entry(0.1, plan="b"), Standing.WORSE),
        (entry(0.1, plan="a"), entry(0.1005, seed=1, plan="b"), Standing.ALIKE),
        (entry(0.1, plan="a"), entry(0.2, plan="a"), Standing.SAME),
    ],
)
def test_a_plan_stands_beside_one_from_elsewhere_by_budget_then_divergence(own, other, expected):
    assert standing(crossing(own, other)) is expected


def test_a_crossing_is_read_back_and_counted():
    made = crossing(entry(0.1, plan="a"), entry(0.2, plan="b"))
    assert read_crossing(json.loads(json.dumps(made.document()))) == made
    assert "is better in 1 of 1 crossings" in cross_table([made])


def test_a_place_has_a_folder_of_its_own_for_each_profile_and_runtime():
    places = {
        Place("local", p, t).folder
        for p in ("host", "/home/me/pixel.toml")
        for t in ("litert", "onnxruntime")
    }
    assert places == {"host-litert", "host-onnxruntime", "pixel-litert", "pixel-onnxruntime"}
