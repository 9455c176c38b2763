"""Unmeasured choices at random, each as likely as any other: what every strategy must beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compiler.search.loop import Trial
from compiler.search.space import Choice
from compiler.search.strategy import Setting, draw, generator


@dataclass(frozen=True)
class Random:
    """Proposes an unmeasured choice at random."""

    setting: Setting

    def propose(self, trials: Sequence[Trial]) -> Choice | None:
        """Return a random choice that no trial has, None where every choice was measured."""
        seen = {trial.choice for trial in trials}
        return draw(self.setting.space, generator(self.setting, len(trials)), seen)


def open_strategy(setting: Setting) -> Random:
    """Return random search."""
    return Random(setting)
