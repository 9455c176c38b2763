"""The default: the integer programme of `compiler.search.loop` on additive costs and a fitted latency."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from compiler.search.loop import propose
from compiler.search.space import Choice
from compiler.search.strategy import Setting
from compiler.search.trial import Trial


@dataclass(frozen=True)
class Integer:
    """Proposes the optimum of the fitted programme, within the budget less the error last observed."""

    setting: Setting

    def propose(self, trials: Sequence[Trial], refused: Collection[Choice] = ()) -> Choice | None:
        """Return the optimum where it beats all that is known, None where that is refused."""
        found = propose(self.setting.space, self.setting.budget, trials)
        return None if found in refused else found


def open_strategy(setting: Setting) -> Integer:
    """Return the integer programme's strategy; it draws nothing at random."""
    return Integer(setting)
