"""NSGA-II (Deb, Pratap, Agarwal and Meyarivan, 2002) by Optuna: least cost, the budget as a constraint.

A population of 50, crossover with probability 0.9, genes swapped with 0.5, each site mutated with one over
the number of sites; the infeasible are ranked by how far they are over the budget.
"""

from __future__ import annotations

from functools import partial

from compiler.search.conversation import Conversation
from compiler.search.strategy import Setting

POPULATION = 50


def open_strategy(setting: Setting) -> Conversation:
    """Return NSGA-II's conversation."""
    from optuna.samplers import NSGAIISampler

    sampler = partial(
        NSGAIISampler, population_size=POPULATION, mutation_prob=None, crossover_prob=0.9, swapping_prob=0.5
    )
    return Conversation(setting, lambda seed: sampler(seed=seed))
