"""Where a search does its experiments: build variants, measure them, read their costs.

Every result goes to the journal before it counts, keyed by the plan, so that an interrupted search
repeats nothing. While worker processes lower the first variants, this one reads their costs.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from compiler.compress.apply import INT8, Calibrated, choose, int8_nodes
from compiler.compress.segments import Segment
from compiler.device import Device, DeviceProfile
from compiler.errors import UnstableMeasurementError
from compiler.ir.graph import Graph
from compiler.records import Artifact, Measurement
from compiler.search.journal import Journal
from compiler.search.loop import Reading
from compiler.search.output_cost import CostEstimate, CostKind, cost_kind, estimate, floating, sample_costs
from compiler.search.shared_evaluation import base_evaluation, evaluate_variants, variant_evaluation
from compiler.search.space import Choice, Link, Site, Space
from compiler.target import Target
from devices.benchmark import Candidate, measure
from devices.benchmark import Progress as Event
from devices.database import MeasurementDatabase
from devices.statistics import ratio
from edgewright.search_lowering import VariantStore
from edgewright.search_samples import Halves, Sample, rows
from edgewright.stages import Progress

FIRST_RUN_ROUNDS = (
    24  # the first run fits a model and holds every variant; trials get the profile's full protocol
)


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
    """All that experiments on one model need."""

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
        """Lower the variants of the first run side by side, and read their costs meanwhile."""
        if self._measured(choices) is None:
            jobs = [self.store.start(self.space.plan(c), lambda c=c: self.graph(c)) for c in choices]  # type: ignore[misc]  # the default binds the loop's value
        else:
            jobs = []
        if costs:
            self.costs([c for c in choices if c != self.space.base])
        for done, job in enumerate(jobs, start=1):
            job.result()
            self.progress(f"variants: {done} of {len(jobs)} lowered")

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

    def _measured(self, choices: Sequence[Choice]) -> dict[str, dict[str, float]] | None:
        found: dict[str, dict[str, float]] | None = self.journal.get("measure", *self._names(choices))
        return found

    def _names(self, choices: Sequence[Choice]) -> list[str]:
        return sorted(map(self._name, choices))

    def _name(self, choice: Choice) -> str:
        return self.space.plan(choice).digest()

    def _measure(self, choices: Sequence[Choice]) -> dict[Choice, Reading]:
        run = list(dict.fromkeys([self.space.base, *choices]))
        first = len(choices) > 2
        series = hashlib.sha256(" ".join([self.identity, *self._names(run)]).encode()).hexdigest()[:16]
        candidates = [self._candidate(c, f"search {series}") for c in run]
        profile = _shortened(self.profile) if first else self.profile
        label = f"measure {len(run)} variants together"
        found = measure(
            candidates, self.device, profile, self.database, _told(self.progress, label, len(run))
        )
        base, *_ = found
        self._check_steady(base, "the merged float model")
        if not first:
            self._check_steady(found[-1], "the proposed variant")
        return {c: _reading(m, base, self._check_pairs) for c, m in zip(run, found, strict=True)}

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
        base = base_evaluation(self.calibrated.graph)
        variants = {c: variant_evaluation(self.calibrated.graph, self.graph(c)) for c in choices}
        reference, found = [], {c: [] for c in choices}  # type: ignore[var-annotated]
        for done, sample in enumerate(samples, start=1):
            own, others = evaluate_variants(base, variants, sample)
            reference.append(floating(own))
            for choice, results in others.items():
                found[choice].append(floating(results))
            self.progress(f"{label}: {done} of {len(samples)} samples, {len(choices)} variants")
        batch = rows(samples[0])
        return {c: sample_costs(reference, found[c], self.kind, batch) for c in choices}

    def _check_steady(self, found: Measurement, what: str) -> None:
        if not found.stable:
            width = 100 * found.statistics.relative_width
            raise UnstableMeasurementError(
                f"{self.device.name}: {what} cannot be timed steadily enough to decide on (median "
                f"{found.statistics.median / 1e6:.3f} ms, interval ±{width:.1f}%"
                f"{', throttled' if found.throttled else ''}). Quieten the device and run the same command "
                f"again: what is done is kept"
            )

    def _check_pairs(self, error: ValueError) -> UnstableMeasurementError:
        return UnstableMeasurementError(
            f"{self.device.name}: too few clean rounds to compare two variants ({error}). Quieten the device "
            f"and run the same command again: what is done is kept"
        )


def _reading(found: Measurement, base: Measurement, unstable: Callable[[ValueError], Exception]) -> Reading:
    try:
        pair = ratio(found.rounds, base.rounds)
    except ValueError as error:
        raise unstable(error) from error
    s = found.statistics
    return Reading(pair.value, pair.low, pair.high, s.median, s.low, s.high, base.statistics.median)


def _shortened(profile: DeviceProfile) -> DeviceProfile:
    protocol = profile.protocol
    most = max(protocol.min_rounds, min(protocol.max_rounds, FIRST_RUN_ROUNDS))
    return dataclasses.replace(profile, protocol=dataclasses.replace(protocol, max_rounds=most))


def _told(progress: Progress, label: str, count: int) -> Callable[[Event], None]:
    made = 0

    def tell(event: Event) -> None:
        nonlocal made
        made += event.event == "round"
        progress(
            f"{label}: {event.event} {event.label}"
            if event.event != "round"
            else f"{label}: round {-(-made // count)}"
        )

    return tell
