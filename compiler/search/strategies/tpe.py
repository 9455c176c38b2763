"""The tree-structured Parzen estimator (Bergstra et al., 2011) by Optuna, the budget as a constraint.

10 random starts, 24 candidates, and the best tenth of the trials, at most 25, as the good ones.
"""

from __future__ import annotations

from functools import partial

from compiler.search.conversation import Conversation
from compiler.search.strategy import Setting

STARTS, CANDIDATES = 10, 24


def open_strategy(setting: Setting) -> Conversation:
    """Return the estimator's conversation."""
    from optuna.samplers import TPESampler

    sampler = partial(TPESampler, n_startup_trials=STARTS, n_ei_candidates=CANDIDATES)
    return Conversation(setting, lambda seed: sampler(seed=seed))
