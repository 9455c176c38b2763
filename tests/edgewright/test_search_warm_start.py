"""A search that begins with what another device measured of the same model."""

import json
from dataclasses import replace

import pytest

from compiler.errors import UsageError
from compiler.search.budget import parse_budget
from compiler.search.experiments import MeasurementBudget
from edgewright import search_setting
from edgewright.search_run import opened
from edgewright.search_samples import halve
from edgewright.search_warm_start import read_warm_start
from tests.edgewright.test_search_structures import method
from tests.edgewright.test_searching import calibrations, images, prepared, run, setting

__all__ = ["calibrations", "method", "setting"]  # fixtures

pytestmark = pytest.mark.target


@pytest.fixture
def structural(setting, method, monkeypatch):
    monkeypatch.setattr(search_setting, "METHODS", (method.METHOD,))
    limits = MeasurementBudget(trials=2, repairs=0)
    return replace(setting, budget=parse_budget("0.9x"), limits=limits, methods=(method.METHOD,))


def test_an_option_is_expected_to_do_what_it_did_on_the_other_device(structural, tmp_path):
    there = run(replace(structural, out=tmp_path / "there"))
    known = read_warm_start(tmp_path / "there", prepared().graph)
    assert len(known) == len(there.outcome.trials)
    halves = halve(prepared().graph, images(24))
    with opened(prepared(), halves, replace(structural, elsewhere=known)) as lab:
        single = next(t for t in there.outcome.trials if len(lab.space.taken(t.choice)) == 1)
        assert lab.outlook(single.choice).departure == pytest.approx(single.reading.ratio - 1)
        # The plan is known by what it decides, not by its place in a space.
        assert lab.plan(single.choice).digest() in known


@pytest.mark.parametrize("better", [0, 1])
def test_what_saved_most_there_is_measured_first(structural, tmp_path, better):
    halves = halve(prepared().graph, images(24))
    with opened(prepared(), halves, replace(structural, out=tmp_path / "named")) as lab:
        singles = [lab.space.single(site, 1) for site in (0, 1)]
        known = {lab.plan(c).digest(): -0.6 if i == better else -0.02 for i, c in enumerate(singles)}
    few = replace(structural, elsewhere=known, limits=MeasurementBudget(2, trials=2, repairs=0))
    measured = [t.choice for t in run(few).outcome.trials if any(t.choice)]
    assert measured[0] == singles[better]


def test_a_folder_without_such_a_search_is_told(structural, tmp_path):
    graph = prepared().graph
    with pytest.raises(UsageError, match=r"no earlier search to start from: .*plan.json: No such file"):
        read_warm_start(tmp_path / "nowhere", graph)
    run(structural)
    plan = structural.out / "plan.json"
    document = json.loads(plan.read_text())
    plan.write_text(json.dumps(document | {"digests": document["digests"] | {"model": "another"}}))
    with pytest.raises(UsageError, match=r"a search of another model \(merged graph another, this one is"):
        read_warm_start(structural.out, graph)
    plan.write_text("{}")
    with pytest.raises(UsageError, match="no folder that a search of this version wrote"):
        read_warm_start(structural.out, graph)
    plan.write_text("{")
    with pytest.raises(UsageError, match=r"plan.json: not JSON"):
        read_warm_start(structural.out, graph)
