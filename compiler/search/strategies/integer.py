"""The default: the integer programme of `compiler.search.loop` on additive costs and a fitted latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compiler.search.loop import Trial, propose
from compiler.search.space import Choice
from compiler.search.strategy import Setting


@dataclass(frozen=True)
class Integer:
    """Proposes the optimum of the fitted programme, within the budget less the error last observed."""

    setting: Setting

    def propose(self, trials: Sequence[Trial]) -> Choice | None:
        """Return the optimum where it beats all that is known; every single departure must be a trial."""
        return propose(self.setting.space, self.setting.budget, trials)


def open_strategy(setting: Setting) -> Integer:
    """Return the integer programme's strategy; it draws nothing at random."""
    return Integer(setting)
