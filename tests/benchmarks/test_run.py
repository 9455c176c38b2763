"""How a cell is run: every way with as many measurements as ours took, nothing done twice; searches made up."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks.cells import run
from benchmarks.cells.judge import OURS, UNIFORM, Entry, read_cell
from benchmarks.cells.run import STRATEGIES, Laboratory, Place, laboratory, run_cells
from benchmarks.trained import Trained
from benchmarks.trained.lessons import Kind
from compiler.errors import InfeasibleBudgetError
from compiler.plan import Decision, Plan
from compiler.search.budget import Budget
from compiler.search.experiments import MeasurementBudget
from compiler.search.space import PRECISION, Site, Space
from compiler.search.trial import Reading, Trial
from devices import open_device
from edgewright import search_run
from edgewright.recipe import resolve
from edgewright.search_setting import MOST_MEASUREMENTS, Setting

pytestmark = pytest.mark.target

HERE = Place("local", "host", "onnxruntime")
SPACE = Space(
    (Site("segment:a", PRECISION, ("float32", "int8")), Site("segment:b", PRECISION, ("float32", "int8")))
)


@pytest.fixture
def network():
    inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(6, dtype=torch.int64)
    return Trained("vit", Kind.IMAGE, nn.Linear(4, 3).eval(), (inputs[:1],), ((inputs,),), inputs, labels)


@pytest.fixture
def searches(monkeypatch):
    """What was asked of the made-up search, which refuses the strategies named in `refused`."""
    asked = []

    def search(prepared, lab, setting, known):
        asked.append((setting.strategy, str(setting.budget), setting.limits))
        assert not known
        if setting.strategy in search.refused:
            raise InfeasibleBudgetError("the least latency measured is 0.7x")
        return SimpleNamespace(
            outcome=SimpleNamespace(
                winner=trial((0, 1)), trials=tuple(map(trial, [(0, 0), (1, 1), (1, 0), (0, 1)]))
            ),
            space=SPACE,
            plan=Plan((Decision("segment:b", PRECISION, "int8"),)),
            artifact=SimpleNamespace(folder=setting.out / "artifact"),
        )

    @contextmanager
    def opened(network, place, home):
        search.opened += 1
        yield Laboratory(network, place, None, None, setting(home))

    search.refused = ()
    search.asked = asked
    search.opened = 0
    monkeypatch.setattr(search_run, "search_point", search)
    monkeypatch.setattr(run, "laboratory", opened)
    monkeypatch.setattr(run, "built", lambda network, place, plan, folder: plan)
    monkeypatch.setattr(run, "judged", judged)
    return search


def setting(home):
    target, profile = resolve(HERE.profile, HERE.target)
    return Setting(target, profile, open_device(HERE.device), Budget(ratio=1.0), home, home / "m.db")


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
    run_cells(network, [0.6], HERE, tmp_path)
    (first, *others) = searches.asked
    assert first == ("integer", "0.6x", MeasurementBudget())
    assert [name for name, _, _ in others] == ["nsga2", "tpe", "random"]
    assert all(
        limits.measurements == limits.trials == 3 for _, _, limits in others
    )  # the base is not one of them


def test_a_cell_holds_every_way_and_uniform_int8_as_our_search_measured_it(network, searches, tmp_path):
    run_cells(network, [0.6], HERE, tmp_path)
    found = cell(tmp_path)
    assert list(found.entries) == [OURS, UNIFORM, "NSGA-II", "TPE", "random"] and not found.refusals
    assert found.entries[UNIFORM].searched == pytest.approx(0.61)
    assert found.entries[UNIFORM].plan.count("int8") == 2 and found.entries[OURS].plan.count("int8") == 1
    assert found.entries[OURS].evaluations == 3 and found.device == "local, onnxruntime"


def test_a_way_that_finds_nothing_is_in_the_cell_with_its_reason(network, searches, tmp_path):
    searches.refused = ("integer", "tpe")
    run_cells(network, [0.6], HERE, tmp_path)
    found = cell(tmp_path)
    assert "0.7x" in found.refusals[OURS] and "0.7x" in found.refusals["TPE"]
    assert "did not measure" in found.refusals[UNIFORM]
    assert list(found.entries) == ["NSGA-II", "random"]


def test_what_is_found_is_not_searched_again(network, searches, tmp_path, monkeypatch):
    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "judged", dies)
    with pytest.raises(KeyboardInterrupt):
        run_cells(network, [0.6], HERE, tmp_path)
    assert len(searches.asked) == len(STRATEGIES)
    monkeypatch.setattr(run, "judged", judged)
    run_cells(network, [0.6], HERE, tmp_path)
    run_cells(network, [0.6], HERE, tmp_path)
    assert len(searches.asked) == len(STRATEGIES) and cell(tmp_path).entries


def test_all_budgets_of_a_network_are_searched_in_one_laboratory(network, searches, tmp_path):
    run_cells(network, [0.8, 0.6], HERE, tmp_path)
    assert searches.opened == 1 and [b for _, b, _ in searches.asked] == ["0.8x"] * 4 + ["0.6x"] * 4
    run_cells(network, [0.8, 0.6], HERE, tmp_path)
    assert searches.opened == 1


def test_a_laboratory_is_what_a_search_opens_by_default(network, tmp_path):
    with laboratory(network, HERE, tmp_path / "home") as made:
        assert made.setting.limits.measurements == MOST_MEASUREMENTS
        assert {site.method for site in made.lab.space.sites} >= {PRECISION}
        assert made.lab.paired and made.lab.halves.seen
