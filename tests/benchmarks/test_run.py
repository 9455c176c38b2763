"""How a cell is run: every way with as many measurements as ours took, nothing done twice; searches made up."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import edgewright
from benchmarks.cells import run
from benchmarks.cells.judge import OURS, UNIFORM, Entry, read_cell
from benchmarks.cells.run import STRATEGIES, Place, run_cell
from benchmarks.trained import Trained
from benchmarks.trained.lessons import Kind
from compiler.errors import InfeasibleBudgetError
from compiler.plan import Decision, Plan
from compiler.search.space import PRECISION, Site, Space
from compiler.search.trial import Reading, Trial

HERE = Place("local", "host", "onnxruntime")
SPACE = Space(
    (Site("segment:a", PRECISION, ("float32", "int8")), Site("segment:b", PRECISION, ("float32", "int8")))
)


@pytest.fixture
def network():
    inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(6, dtype=torch.int64)
    return Trained("vit", Kind.IMAGE, nn.Linear(4, 3), (inputs[:1],), ((inputs,),), inputs, labels)


@pytest.fixture
def searches(monkeypatch):
    """What was asked of the made-up search, which refuses the strategies named in `refused`."""
    asked = []

    def search(module, *, latency_budget, strategy, limits, out, **others):
        asked.append((strategy, latency_budget, limits))
        if strategy in search.refused:
            raise InfeasibleBudgetError("the least latency measured is 0.7x")
        return SimpleNamespace(
            outcome=SimpleNamespace(
                winner=trial((0, 1)), trials=tuple(map(trial, [(0, 0), (1, 1), (1, 0), (0, 1)]))
            ),
            space=SPACE,
            plan=Plan((Decision("segment:b", PRECISION, "int8"),)),
            artifact=SimpleNamespace(folder=out / "artifact"),
        )

    search.refused = ()
    search.asked = asked
    monkeypatch.setitem(vars(edgewright), "search", search)
    monkeypatch.setattr(run, "built", lambda network, place, plan, folder: plan)
    monkeypatch.setattr(run, "judged", judged)
    return search


def trial(choice):
    ratio = 1 - 0.2 * sum(choice)
    return Trial(choice, Reading(ratio, ratio - 0.01, ratio + 0.01, 1e6, 1e6, 1e6, 1e6))


def judged(network, place, found, work):
    return {
        way: Entry(0.5, 0.49, 0.51, a.searched, 0.9, (0.1, 0.2), a.evaluations or 0, a.plan)
        for way, a in found.items()
    }


def cell(work):
    (path,) = work.glob("*/*/*/cell.json")
    return read_cell(json.loads(path.read_text()))


def test_every_other_strategy_may_measure_as_many_variants_as_ours_did(network, searches, tmp_path):
    run_cell(network, 0.6, HERE, tmp_path)
    (first, *others) = searches.asked
    assert first == ("integer", "0.6x", None)
    assert [name for name, _, _ in others] == ["nsga2", "tpe", "random"]
    assert all(
        limits.measurements == limits.trials == 3 for _, _, limits in others
    )  # the base is not one of them


def test_a_cell_holds_every_way_and_uniform_int8_as_our_search_measured_it(network, searches, tmp_path):
    run_cell(network, 0.6, HERE, tmp_path)
    found = cell(tmp_path)
    assert list(found.entries) == [OURS, UNIFORM, "NSGA-II", "TPE", "random"] and not found.refusals
    assert found.entries[UNIFORM].searched == pytest.approx(0.61)
    assert found.entries[UNIFORM].plan.count("int8") == 2 and found.entries[OURS].plan.count("int8") == 1
    assert found.entries[OURS].evaluations == 3 and found.device == "local, onnxruntime"


def test_a_way_that_finds_nothing_is_in_the_cell_with_its_reason(network, searches, tmp_path):
    searches.refused = ("integer", "tpe")
    run_cell(network, 0.6, HERE, tmp_path)
    found = cell(tmp_path)
    assert "0.7x" in found.refusals[OURS] and "0.7x" in found.refusals["TPE"]
    assert "did not measure" in found.refusals[UNIFORM]
    assert list(found.entries) == ["NSGA-II", "random"]


def test_what_is_found_is_not_searched_again(network, searches, tmp_path, monkeypatch):
    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "judged", dies)
    with pytest.raises(KeyboardInterrupt):
        run_cell(network, 0.6, HERE, tmp_path)
    assert len(searches.asked) == len(STRATEGIES)
    monkeypatch.setattr(run, "judged", judged)
    run_cell(network, 0.6, HERE, tmp_path)
    run_cell(network, 0.6, HERE, tmp_path)
    assert len(searches.asked) == len(STRATEGIES) and cell(tmp_path).entries
