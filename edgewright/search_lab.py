"""Where a search does its experiments: build variants, measure them, read their costs.

Every result goes to the journal before it counts, keyed by the plan, so that an interrupted search
repeats nothing. While worker processes lower the first variants, this one reads their costs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from compiler.compress.apply import Calibrated, choose, int8_nodes
from compiler.compress.segments import Segment
from compiler.device import Device, DeviceProfile
from compiler.errors import UnstableMeasurementError
from compiler.ir.graph import Graph
from compiler.records import Artifact, Measurement, Metric
from compiler.search.journal import Journal
from compiler.search.loop import Reading
from compiler.search.output_cost import CostEstimate, CostKind, cost_kind, estimate, floating, sample_costs
from compiler.search.shared_evaluation import base_evaluation, evaluate_variants, variant_evaluation
from compiler.search.space import Choice, Link, Site, Space
from compiler.target import INT8, Target
from devices.benchmark import Candidate, measure
from devices.benchmark import Progress as Event
from devices.database import MeasurementDatabase
from devices.statistics import ratio
from edgewright.search_lowering import VariantStore
from edgewright.search_samples import Halves, Sample, rows
from edgewright.stages import Progress, silent

FIRST_RUN_ROUNDS = (
    24  # the first run fits a model and holds every variant; trials get the profile's full protocol
)
LEAST_PAIRS = 5  # of clean rounds, for a ratio and its interval


def make_space(segments: Sequence[Segment], calibrated: Calibrated) -> Space:
    """Return the segments as sites; one in which nothing can be int8 has no int8 option."""
    able = calibrated.inputs | calibrated.outputs
    options = [("float32", INT8) if s.nodes & able else ("float32",) for s in segments]
    index = {s.site: i for i, s in enumerate(segments)}
    links = [Link(index[s.site], index[to], size) for s in segments for to, size in s.boundary_bytes.items()]
    sites = tuple(Site(s.site, o) for s, o in zip(segments, options, strict=True))
    return Space("precision", sites, tuple(sorted(links, key=lambda k: (k.u, k.v))))


@dataclass
class Lab:
    """All that experiments on one model need.

    `paired` tells that decisions rest on ratios of interleaved rounds (a budget such as `0.7x`),
    not on the clock; drift of the machine then does no harm.
    """

    space: Space
    segments: Sequence[Segment]
    calibrated: Calibrated
    halves: Halves
    target: Target
    profile: DeviceProfile
    device: Device
    database: MeasurementDatabase
    journal: Journal
    store: VariantStore
    seed: int
    progress: Progress
    most_samples: int
    identity: str
    paired: bool

    @property
    def kind(self) -> CostKind:
        """What the costs count."""
        return cost_kind(self.calibrated.graph)

    def graph(self, choice: Choice) -> Graph:
        """Return the graph of a choice."""
        chosen = int8_nodes(self.segments, self.space.plan(choice))
        return choose(self.calibrated, chosen) if chosen else self.calibrated.graph

    def artifact(self, choice: Choice) -> Artifact:
        """Return the lowered variant of a choice."""
        return self.store.start(self.space.plan(choice), lambda: self.graph(choice)).result()

    def prepare(self, choices: Sequence[Choice], costs: bool) -> None:
        """Lower the variants of a run side by side, and read their costs meanwhile."""
        if self._measured(choices) is None:
            jobs = [self.store.start(self.space.plan(c), lambda c=c: self.graph(c)) for c in choices]  # type: ignore[misc]  # the default binds the loop's value
        else:
            jobs = []
        if costs:
            self.costs([c for c in choices if c != self.space.base])
        waiting = not all(job.done() for job in jobs)
        tell = counted(self.progress if waiting else silent, "lower")
        for done, job in enumerate(jobs, start=1):
            job.result()
            tell(done, len(jobs))

    def costs(self, choices: Sequence[Choice]) -> dict[Choice, CostEstimate]:
        """Return the costs of choices on half A."""
        missing = [c for c in choices if self.journal.get("cost", self._name(c)) is None]
        samples = self.halves.seen[: self.most_samples]
        for choice, found in self._sample_costs(missing, samples, "costs").items():
            self.journal.put(asdict(estimate(found, self.seed)), "cost", self._name(choice))
        return {c: CostEstimate(**self.journal.get("cost", self._name(c))) for c in choices}

    def cost(self, choice: Choice) -> CostEstimate:
        """Return the cost of one choice on half A."""
        return self.costs([choice])[choice]

    def unseen_cost(self, choice: Choice) -> CostEstimate:
        """Return the cost of a choice on half B, which nothing before has looked at."""

        def make() -> dict[str, object]:
            samples = self.halves.unseen[: self.most_samples]
            return asdict(estimate(self._sample_costs([choice], samples, "unseen half")[choice], self.seed))

        return CostEstimate(**self.journal.once(make, "unseen cost", self._name(choice)))

    def measure(self, choices: Sequence[Choice]) -> Mapping[Choice, Reading]:
        """Measure choices interleaved with the base; raises UnstableMeasurementError."""
        found = self._measured(choices)
        if found is None:
            found = {self._name(c): asdict(r) for c, r in self._measure(choices).items()}
            self.journal.put(found, "measure", *self._names(choices))
        return {c: Reading(**found[self._name(c)]) for c in choices}

    def _measured(self, choices: Sequence[Choice]) -> dict[str, dict[str, Any]] | None:
        found: dict[str, dict[str, Any]] | None = self.journal.get("measure", *self._names(choices))
        return found

    def _names(self, choices: Sequence[Choice]) -> list[str]:
        return sorted(map(self._name, choices))

    def _name(self, choice: Choice) -> str:
        return self.space.plan(choice).digest()

    def _measure(self, choices: Sequence[Choice]) -> dict[Choice, Reading]:
        run = list(dict.fromkeys([self.space.base, *choices]))
        self.prepare(run, costs=len(choices) == 1)
        short = _shortened(self.profile)
        if len(choices) == 1 or short == self.profile:
            return self._measure_run(run, self.profile)
        try:
            return self._measure_run(run, short)
        except UnstableMeasurementError as error:
            self.progress(f"measure again, for longer: {error}")
            return self._measure_run(run, self.profile)

    def _measure_run(self, run: Sequence[Choice], profile: DeviceProfile) -> dict[Choice, Reading]:
        series = hashlib.sha256(" ".join([self.identity, *self._names(run)]).encode()).hexdigest()[:16]
        candidates = [self._candidate(c, f"search {series}") for c in run]
        tell = _told(self.progress, len(run))
        found = measure(candidates, self.device, profile, self.database, tell)
        readings = {c: self._reading(m, found[0]) for c, m in zip(run, found, strict=True)}
        if not self.paired:
            for judged in found if len(run) == 2 else found[:1]:
                self._check_steady(judged)
        return readings

    def _candidate(self, choice: Choice, series: str) -> Candidate:
        artifact = self.artifact(choice)
        manifest = artifact.manifest
        return Candidate(
            label=self.label(choice),
            artifact_digest=artifact.digest,
            graph_digest=str(manifest["graph_digest"]),
            plan_digest=str(manifest["plan_digest"]),
            spec=self.target.run_spec(artifact, self.profile),
            plan=str(manifest["plan"]),
            target={"target": self.target.name, **self.target.versions()},
            series=series,
        )

    def label(self, choice: Choice) -> str:
        """Return a choice in one word: `float32`, `int8`, or the numbers of its int8 segments."""
        taken = [str(i + 1) for i, o in enumerate(choice) if o]
        if not taken:
            return "float32"
        return INT8 if choice == self.space.uniform(INT8) else f"int8 in {','.join(taken)}"

    def _sample_costs(
        self, choices: Sequence[Choice], samples: Sequence[Sample], label: str
    ) -> dict[Choice, np.ndarray[tuple[int], np.dtype[np.float64]]]:
        if not choices:
            return {}
        tell = counted(self.progress, f"{label} of {len(choices)} variants")
        base = base_evaluation(self.calibrated.graph)
        variants = {c: variant_evaluation(self.calibrated.graph, self.graph(c)) for c in choices}
        reference, found = [], {c: [] for c in choices}  # type: ignore[var-annotated]
        for done, sample in enumerate(samples, start=1):
            own, others = evaluate_variants(base, variants, sample)
            reference.append(floating(own))
            for choice, results in others.items():
                found[choice].append(floating(results))
            tell(done, len(samples))
        batch = rows(samples[0])
        return {c: sample_costs(reference, found[c], self.kind, batch) for c in choices}

    def _reading(self, found: Measurement, base: Measurement) -> Reading:
        """Return the paired reading; raises UnstableMeasurementError where pairs are few or disagree."""
        counted = found.metric is Metric.INSTRUCTIONS
        least = self.profile.protocol.min_rounds if counted else LEAST_PAIRS  # counts repeat
        unit = "M instructions" if counted else " ms"
        median, other = found.statistics.median / 1e6, base.statistics.median / 1e6
        label = f"{median:.3f}{unit} beside {other:.3f}{unit}"
        try:
            pair = ratio(found.rounds, base.rounds)  # clean rounds only: a throttled one decides nothing
        except ValueError as error:
            raise self._unstable(f"two variants cannot be compared ({label}): {error}") from error
        width = (pair.high - pair.low) / 2 / pair.value
        if pair.rounds < least or width > self.profile.protocol.unstable_width:
            raise self._unstable(
                f"two variants cannot be compared ({label}): {pair.rounds} pairs of clean rounds, "
                f"{least} needed; interval of their ratio ±{100 * width:.1f}%"
            )
        s = found.statistics
        own = (s.median, s.low, s.high, base.statistics.median)
        return Reading(pair.value, pair.low, pair.high, *own, counted)

    def _check_steady(self, found: Measurement) -> None:
        """Refuse an unsteady reading of the clock, which an absolute budget is judged by."""
        if not found.stable:
            raise self._unstable(
                f"no reading steady enough for a budget in time (median "
                f"{found.statistics.median / 1e6:.3f} ms, interval "
                f"±{100 * found.statistics.relative_width:.1f}%"
                f"{', throttled' if found.throttled else ''}); a budget as a ratio, 0.7x, needs less"
            )

    def _unstable(self, text: str) -> UnstableMeasurementError:
        return UnstableMeasurementError(
            f"{self.device.name}: {text}. Quieten the device and run the same command again: "
            f"what is done is kept"
        )


def _shortened(profile: DeviceProfile) -> DeviceProfile:
    protocol = profile.protocol
    most = max(protocol.min_rounds, min(protocol.max_rounds, FIRST_RUN_ROUNDS))
    return replace(profile, protocol=replace(protocol, max_rounds=most))


def _told(progress: Progress, variants: int) -> Callable[[Event], None]:
    """Tell runners that are up and every eighth round of all variants."""
    ready = made = 0

    def tell(event: Event) -> None:
        nonlocal ready, made
        if event.event == "ready":
            ready += 1
            progress(f"measure: {ready} of {variants} runners are warm")
        elif event.event == "round":
            made += 1
            if made % (8 * variants) == 0:
                progress(f"measure: {made // variants} rounds of {variants} variants")

    return tell


def counted(progress: Progress, label: str) -> Callable[[int, int], None]:
    """Return a callback of (done, total) that tells about eight times on the way and at the end."""

    def tell(done: int, total: int) -> None:
        if done == total or done % max(1, total // 8) == 0:
            progress(f"{label}: {done} of {total}")

    return tell
