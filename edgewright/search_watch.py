"""Who watches a search's trials as they come: the display by events, Optuna's dashboard by its storage."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from compiler.search.dashboard import Dashboard, open_dashboard
from compiler.search.events import Finished, Measured, Started
from compiler.search.state import Watch
from compiler.search.strategy import Setting as StrategySetting
from compiler.search.trial import Trial
from edgewright.search_lab import Lab
from edgewright.search_setting import Setting


def watching(model: str, lab: Lab, setting: Setting, named: StrategySetting) -> Watch:
    """Return what is called with all trials whenever there are more of them."""
    setting.watch(Started(model, str(setting.budget), len(lab.space.sites), setting.limits.left(0, 0.0)))
    shows = [_told(lab, setting)]
    if setting.storage is not None:
        shows.append(_shown(setting.storage, lab, setting, named))

    def watch(trials: Sequence[Trial]) -> None:
        for show in shows:
            show(trials)

    return watch


def chosen(winner: Trial, lab: Lab, setting: Setting) -> None:
    """Tell which trial has won."""
    cost = winner.cost.mean if winner.cost else 0.0
    upper = winner.reading.upper(setting.budget)
    setting.watch(Finished(lab.label(winner.choice, winner.heals), upper, cost))


def _told(lab: Lab, setting: Setting) -> Watch:
    seen: set[int] = set()

    def watch(trials: Sequence[Trial]) -> None:
        for number, trial in enumerate(trials):
            priced = trial.cost is not None or trial.choice == lab.space.base
            if number in seen or not priced:
                continue
            seen.add(number)
            reading = trial.reading
            spent = [t for t in trials[: number + 1] if t.choice != lab.space.base]
            setting.watch(
                Measured(
                    lab.label(trial.choice, trial.heals),
                    reading.ratio,
                    reading.ratio_low,
                    reading.ratio_high,
                    reading.within(setting.budget),
                    trial.cost.mean if trial.cost else 0.0,
                    trial.predicted,
                    setting.limits.left(len(spent), sum(t.reading.seconds for t in spent)),
                )
            )

    return watch


def _shown(storage: str, lab: Lab, setting: Setting, named: StrategySetting) -> Watch:
    name = f"{setting.profile.name}-{hashlib.sha256(lab.identity.encode()).hexdigest()[:8]}"
    opened: list[Dashboard] = []

    def watch(trials: Sequence[Trial]) -> None:
        if not opened:
            opened.append(open_dashboard(storage, name, named, trials))
        opened[0].show(trials)

    return watch
