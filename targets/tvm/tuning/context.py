"""MetaSchedule's search over the schedules of one kernel: a batch of candidates, then what they took.

Evolutionary search over TVM's own design space for LLVM, on one thread and with a seed: the same answers
make the same search. The model that ranks candidates before they are measured guesses at random: TVM's
models need packages of their own, and the measured ones lead the evolution anyway.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from targets.tvm.processor import Processor
from targets.tvm.static import SYSTEM
from targets.tvm.tuning import THREADS

BATCH = 8
POPULATION = 24  # traces that compete to be measured; each costs milliseconds of ours
FRESH = 16  # of them drawn at random
GENERATIONS = 2
MOST_SEED = 2**31 - 1


class Search:
    """A search in progress."""

    def __init__(self, module: Any, processor: Processor, trials: int, seed: int) -> None:
        """Draw up the design space of a module's one function."""
        from tvm.s_tir import meta_schedule as ms

        self.target = target(processor)
        self.database = ms.database.MemoryDatabase()
        self.workload = self.database.commit_workload(module)
        self.context = _context(ms, module, self.target, 1 + seed % (MOST_SEED - 1))
        spaces = self.context.generate_design_space()
        self.context.pre_tuning(trials, BATCH, spaces, self.database, _guesses(ms, seed))

    def candidates(self) -> list[Any]:
        """Return the next candidates, none when the search is at its end."""
        return list(self.context.generate_measure_candidates() or ())

    def tell(self, candidates: Sequence[Any], seconds: Sequence[float | None]) -> None:
        """Tell what the candidates took, None for one that failed."""
        from tvm.s_tir.meta_schedule.database import TuningRecord
        from tvm.s_tir.meta_schedule.runner import RunnerResult

        results = []
        for candidate, taken in zip(candidates, seconds, strict=True):
            results.append(RunnerResult(None, "failed") if taken is None else RunnerResult([taken], None))
            if taken is not None:
                trace, info = candidate.sch.trace, candidate.args_info
                self.database.commit_tuning_record(
                    TuningRecord(trace, self.workload, [taken], self.target, info)
                )
        self.context.notify_runner_results(candidates, results)


def target(processor: Processor) -> Any:
    """Return TVM's target with the number of cores, which the design space divides work by."""
    import tvm

    cores = {"num-cores": THREADS}
    return tvm.target.Target(
        {"kind": "llvm", "mtriple": processor.triple(SYSTEM), "mcpu": processor.cpu, **cores}
    )


def _context(ms: Any, module: Any, target: Any, seed: int) -> Any:
    """Return the context without its constructor, which imports the tensor intrinsics of all GPUs."""
    from tvm.s_tir.meta_schedule import _ffi_api

    generator = ms.space_generator.PostOrderApply(sch_rules="llvm", postprocs="llvm", mutator_probs="llvm")
    strategy = ms.search_strategy.EvolutionarySearch(
        population_size=POPULATION, init_min_unmeasured=FRESH, genetic_num_iters=GENERATIONS
    )
    context = ms.TuneContext.__new__(ms.TuneContext)
    arguments = (module, target, generator, strategy, "main", THREADS, seed, lambda *_: None)
    context.__init_handle_by_constructor__(_ffi_api.TuneContext, *arguments)
    _ffi_api.TuneContextInitialize(context)
    return context


def _guesses(ms: Any, seed: int) -> Any:
    """Return a model that ranks at random, and leaves numpy's own generator alone."""
    import numpy
    from tvm.ir.utils import derived_object

    drawn = random.Random(seed)

    class Guesses(ms.cost_model.PyCostModel):  # type: ignore[misc]  # TVM is not typed
        def update(self, context: Any, candidates: Any, results: Any) -> None:
            """Learn nothing."""

        def predict(self, context: Any, candidates: Any) -> Any:
            return numpy.array([drawn.random() for _ in candidates], dtype="float64")

    return derived_object(Guesses)()
