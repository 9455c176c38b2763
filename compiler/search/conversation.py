"""A search by one of Optuna's samplers: what was measured is told, what to measure next is asked.

Every trial is enqueued, asked and told, and counted to a generation where the sampler has generations, so
that it counts the same whoever proposed it. The constraint is how far it was over the limits as measured;
above 0 is infeasible, and ranked by how far.

Samplers hold a state of their random numbers only: for each question it is seeded anew, by the seed and the
number of trials, so that a search told the same trials asks the same in a new process. A sampler may ask what
was measured already. Such a question is closed as failed, which samplers ignore, and asked again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from compiler.search.space import Choice, Space
from compiler.search.strategy import Setting, draw, excess, generator
from compiler.search.trial import Trial

if TYPE_CHECKING:
    import optuna

ASKED = 32  # questions in a row that were answered already, before a random choice is taken
CONSTRAINT = "excess over the limits"

MakeSampler = Callable[[int], "optuna.samplers.BaseSampler"]


class Conversation:
    """A study in memory, told of trials as they come."""

    def __init__(self, setting: Setting, sampler: MakeSampler) -> None:
        """Start with nothing told; `sampler` returns one for a seed."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._setting, self._sampler = setting, sampler
        self._study = optuna.create_study(sampler=sampler(setting.seed))
        self._space = distributions(setting.space)
        self._told = 0

    def propose(self, trials: Sequence[Trial], refused: Collection[Choice] = ()) -> Choice | None:
        """Tell what is new among the trials, and return what the sampler asks for: no trial, not refused."""
        from optuna.samplers import BaseGASampler

        for trial in trials[self._told :]:
            self._tell(trial)
        self._told = len(trials)
        seen = {trial.choice for trial in trials} | set(refused)
        random = generator(self._setting, len(trials), len(refused))
        if isinstance(self._study.sampler, BaseGASampler):
            self._ask(0)  # the first question of a generation reads its parents in an order of its own
        for _ in range(ASKED):
            choice = self._ask(int(random.integers(2**31)))
            if choice not in seen:
                return choice
        return draw(self._setting.space, random, seen)

    def _ask(self, seed: int) -> Choice:
        from optuna.trial import TrialState

        self._study.sampler = self._sampler(seed)
        question = self._study.ask(self._space)
        self._study.tell(question, state=TrialState.FAIL)
        return chosen(self._setting.space, question.params)

    def _tell(self, trial: Trial) -> None:
        from optuna.samplers import BaseGASampler

        self._study.enqueue_trial(parameters(self._setting.space, trial.choice))
        question = self._study.ask(self._space)
        if isinstance(self._study.sampler, BaseGASampler):  # what was enqueued it counts only when asked to
            self._study.sampler.get_trial_generation(self._study, self._study.get_trials(deepcopy=False)[-1])
        question.set_constraint(CONSTRAINT, excess(trial, self._setting))
        self._study.tell(question, trial.price[0])


def distributions(space: Space) -> dict[str, optuna.distributions.BaseDistribution]:
    """Return a space as Optuna has it: a categorical parameter for each site, of its options' names."""
    from optuna.distributions import CategoricalDistribution

    return {
        name: CategoricalDistribution(s.options) for name, s in zip(names(space), space.sites, strict=True)
    }


def names(space: Space) -> tuple[str, ...]:
    """Return a name for each site that no other has: several methods may have sites of one name."""
    often = Counter(site.name for site in space.sites)
    return tuple(s.name if often[s.name] == 1 else f"{s.name} ({i})" for i, s in enumerate(space.sites))


def parameters(space: Space, choice: Choice) -> dict[str, str]:
    """Return a choice as Optuna's parameters."""
    sites = zip(names(space), space.sites, choice, strict=True)
    return {name: site.options[o] for name, site, o in sites}


def chosen(space: Space, given: dict[str, str]) -> Choice:
    """Return Optuna's parameters as a choice."""
    return tuple(s.options.index(given[name]) for name, s in zip(names(space), space.sites, strict=True))
