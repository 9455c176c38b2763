"""The trials of a search in a storage of Optuna's, so that its dashboard shows them while they come.

    edgewright search ... --storage sqlite:///search.db          optuna-dashboard sqlite:///search.db

A study holds two objectives, cost and latency over the base's, and the limits as a constraint. The storage is
a view: nothing is read from it but how many trials it has. A search that goes on from its journal continues
its study where the study's trials are the search's first; any other search begins a study of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from hashlib import sha256
from itertools import count
from typing import TYPE_CHECKING

from compiler.errors import UsageError
from compiler.search.conversation import CONSTRAINT, distributions, parameters
from compiler.search.strategy import Setting, excess
from compiler.search.trial import Trial

if TYPE_CHECKING:
    import optuna

ACCEPTED = "a SQLAlchemy URL such as sqlite:///search.db or postgresql://user@host/name"


class Dashboard:
    """One study of a storage, made by `open_dashboard`."""

    def __init__(self, study: optuna.Study, setting: Setting, shown: int) -> None:
        """Go on with a study that holds the first `shown` trials."""
        self.study, self._setting, self._shown = study, setting, shown

    def show(self, trials: Sequence[Trial]) -> None:
        """Add the trials that the study does not hold yet."""
        for trial in trials[self._shown :]:
            self.study.add_trial(_stored(self._setting, trial))
        self._shown = len(trials)


def open_dashboard(url: str, name: str, setting: Setting, trials: Sequence[Trial] = ()) -> Dashboard:
    """Return the study of a search of that name, `trials` being those it begins with.

    Raises UsageError where the storage cannot be opened.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = optuna.storages.RDBStorage(url)
    except Exception as error:  # SQLAlchemy's, alembic's, Optuna's or a missing driver's
        why = str(error).splitlines()[0]
        raise UsageError(f"cannot open the storage {url!r}: {why}; accepted: {ACCEPTED}") from error
    known = {study.study_name for study in storage.get_all_studies()}
    digest = sha256(repr(setting).encode()).hexdigest()[:8]
    for number in count(1):
        full = f"{name}-{digest}-{number}"
        if full not in known:
            study = optuna.create_study(storage=storage, study_name=full, directions=["minimize"] * 2)
            _name_metrics(study)
            study.set_user_attr("budget", str(setting.budget))
            break
        study = optuna.load_study(storage=storage, study_name=full)
        if _begins(study, setting, trials):
            break
    dashboard = Dashboard(study, setting, len(study.trials))
    dashboard.show(trials)
    return dashboard


def _name_metrics(study: optuna.Study) -> None:
    """Label the dashboard's axes."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # since version 3.2
        study.set_metric_names(["cost", "latency"])


def _begins(study: optuna.Study, setting: Setting, trials: Sequence[Trial]) -> bool:
    """Tell whether a study's trials are the first of these, as measured."""
    ours = [(parameters(setting.space, t.choice), _values(t)) for t in trials]
    theirs = [(t.params, t.values) for t in study.trials]
    return theirs == ours[: len(theirs)]


def _values(trial: Trial) -> list[float]:
    return list(trial.price)


def _stored(setting: Setting, trial: Trial) -> optuna.trial.FrozenTrial:
    import optuna

    found = {"latency": trial.reading.text, "predicted": trial.predicted}
    return optuna.trial.create_trial(
        params=parameters(setting.space, trial.choice),
        distributions=distributions(setting.space),
        values=_values(trial),
        user_attrs={key: value for key, value in found.items() if value is not None},
        constraints={CONSTRAINT: excess(trial, setting)},
    )
