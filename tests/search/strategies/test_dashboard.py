import optuna
import pytest

from compiler.errors import UsageError
from compiler.search.budget import parse_budget
from compiler.search.dashboard import open_dashboard
from compiler.search.output_cost import CostEstimate
from compiler.search.space import Site, Space
from compiler.search.strategy import Setting
from compiler.search.trial import Reading, Trial

SPACE = Space(
    (
        Site("s:0", "precision", ("float32", "int8")),
        Site("s:1", "precision", ("float32", "int8")),
        Site("s:1", "crop_kernels", ("k5", "k3")),
    ),
)
SETTING = Setting(SPACE, parse_budget("0.7x"))


def trial(*choice: int, ratio: float = 0.8) -> Trial:
    reading = Reading(ratio, ratio, ratio, ratio * 1e6, ratio * 1e6, ratio * 1e6, 1e6)
    return Trial(choice, reading, CostEstimate(0.1 * sum(choice), 0.0, 0.0, 1.0, 4), predicted=0.75)


TRIALS = [trial(0, 1, 0), trial(1, 1, 0, ratio=0.6), trial(1, 1, 1, ratio=0.5)]


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/search.db"


def test_a_study_holds_every_trial(url):
    open_dashboard(url, "net", SETTING).show(TRIALS)
    (name,) = optuna.get_all_study_names(url)
    study = optuna.load_study(study_name=name, storage=url)
    assert study.trials[0].params == {"s:0": "float32", "s:1 (1)": "int8", "s:1 (2)": "k5"}
    assert [t.values for t in study.trials] == [
        pytest.approx(v) for v in ([0.1, 0.8], [0.2, 0.6], [0.3, 0.5])
    ]
    assert [list(t.constraints.values()) for t in study.trials] == [
        [pytest.approx(x)] for x in (0.1, -0.1, -0.2)
    ]
    assert study.trials[0].user_attrs == {"latency": TRIALS[0].reading.text, "predicted": 0.75}
    assert study.user_attrs == {"budget": "0.7x"}
    assert study.metric_names == ["cost", "latency"]
    assert {t.number for t in study.best_trials} == {1, 2}


def test_a_resumed_search_goes_on_with_its_study(url):
    open_dashboard(url, "net", SETTING).show(TRIALS[:2])
    open_dashboard(url, "net", SETTING, TRIALS[:2]).show(TRIALS)
    (name,) = optuna.get_all_study_names(url)
    assert len(optuna.load_study(study_name=name, storage=url).trials) == 3


def test_another_search_begins_a_study_of_its_own(url):
    open_dashboard(url, "net", SETTING).show(TRIALS)
    open_dashboard(url, "net", SETTING).show(TRIALS[1:])  # the same, begun again
    open_dashboard(url, "net", Setting(SPACE, parse_budget("0.5x"))).show(TRIALS)
    studies = [optuna.load_study(study_name=n, storage=url) for n in optuna.get_all_study_names(url)]
    assert sorted(len(s.trials) for s in studies) == [2, 3, 3]


@pytest.mark.parametrize("wrong", ["nonsense", "sqlite:////no/such/folder/x.db", "made://here"])
def test_a_storage_that_cannot_be_opened_says_what_is_accepted(wrong):
    with pytest.raises(UsageError, match=r"cannot open the storage .* accepted: a SQLAlchemy URL"):
        open_dashboard(wrong, "net", SETTING)
