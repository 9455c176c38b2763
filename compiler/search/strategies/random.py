"""Unmeasured choices at random, each as likely as any other: what every strategy must beat."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from compiler.search.space import Choice
from compiler.search.strategy import Setting, draw, generator
from compiler.search.trial import Trial


@dataclass(frozen=True)
class Random:
    """Proposes an unmeasured choice at random."""

    setting: Setting

    def propose(self, trials: Sequence[Trial], refused: Collection[Choice] = ()) -> Choice | None:
        """Return a random choice that no trial has, None where every choice was measured."""
        seen = {trial.choice for trial in trials} | set(refused)
        return draw(self.setting.space, generator(self.setting, len(trials), len(refused)), seen)


def open_strategy(setting: Setting) -> Random:
    """Return random search."""
    return Random(setting)
