"""Tunes the kernels of one module, batch by batch: what a caller measures decides.

A search is a function of its seed and of what its candidates took. One that was interrupted, or that is
asked for again, draws the same candidates; those whose trial is known are not measured, so that it goes
on where it stopped, and with more trials goes further on the same way.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.records import RunSpec
from compiler.tuning import Measure, Trial, TunableKernel
from targets.quiet import quiet_native
from targets.tvm.processor import Processor
from targets.tvm.static.program import Program
from targets.tvm.tuning.apply import schedule_text
from targets.tvm.tuning.context import Search
from targets.tvm.tuning.kernels import Source, alone, program
from targets.tvm.tuning.programs import build

SHORT = 300  # characters of a reason


@dataclass(frozen=True)
class KernelTuner:
    """The kernels of a fused module (compiler.tuning.Tuner) for a processor."""

    sources: Mapping[TunableKernel, Source]
    refused: Mapping[str, str]
    processor: Processor

    @property
    def kernels(self) -> tuple[TunableKernel, ...]:
        """The kernels that can be tuned, those that matter most first."""
        return tuple(self.sources)

    def tune(
        self, kernel: TunableKernel, trials: int, seed: int, known: Sequence[Trial], measure: Measure
    ) -> Iterator[tuple[Trial, ...]]:
        """Try schedules and yield those that were measured, batch by batch."""
        if trials < 1:
            return
        source = self.sources[kernel]
        bench = _Bench(alone(source.function), program(source), self.processor, measure)
        with quiet_native():
            search = Search(bench.module, self.processor, trials, seed)
        tried = {trial.schedule: trial for trial in known}
        while found := _next(search):
            fresh = {text: c for text, c in found.items() if text not in tried}
            made = bench.run({text: candidate.sch.mod for text, candidate in fresh.items()})
            tried |= {trial.schedule: trial for trial in made}
            search.tell(list(found.values()), [tried[text].ratio for text in found])
            if made:
                yield made


def _next(search: Search) -> dict[str, Any]:
    with quiet_native():
        return {schedule_text(candidate.sch): candidate for candidate in search.candidates()}


@dataclass(frozen=True)
class _Bench:
    """Where candidates of one kernel are built and measured, beside its default schedule."""

    module: Any
    program: Program
    processor: Processor
    measure: Measure

    def run(self, modules: Mapping[str, Any]) -> tuple[Trial, ...]:
        """Return the trials of the modules of some schedules; one that cannot be built has failed."""
        if not modules:
            return ()
        with tempfile.TemporaryDirectory(prefix="edgewright-") as name:
            default = self._build(self.module, Path(name) / "default")
            if isinstance(default, str):
                return tuple(Trial(text, None, 0.0, f"its default schedule: {default}") for text in modules)
            built = {t: self._build(m, Path(name) / str(i)) for i, (t, m) in enumerate(modules.items())}
            return self._measured(default, built)

    def _measured(self, default: RunSpec, built: Mapping[str, RunSpec | str]) -> tuple[Trial, ...]:
        specs = {text: spec for text, spec in built.items() if isinstance(spec, RunSpec)}
        baseline, *taken = self.measure([default, *specs.values()])
        assert baseline is not None
        latencies = dict(zip(specs, taken, strict=True))
        reasons = {text: "it does not run" for text, latency in latencies.items() if latency is None}
        reasons |= {text: why for text, why in built.items() if isinstance(why, str)}
        return tuple(Trial(t, latencies.get(t), baseline, reasons.get(t, "")) for t in built)

    def _build(self, module: Any, folder: Path) -> RunSpec | str:
        try:
            with quiet_native():
                return build(self.program, module, self.processor, folder)
        except Exception as found:  # LLVM and TVM raise whatever a schedule makes them stumble on
            return (" ".join(str(found).split()) or type(found).__name__)[:SHORT]
