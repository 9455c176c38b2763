"""Where a search does its experiments: build variants, measure them, read their costs.

Every result goes to the journal before it counts, keyed by the plan, so that an interrupted search
repeats nothing. While worker processes lower the first variants, this one reads their costs.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from compiler.compress.healing import heal, healed
from compiler.compress.quantize import NAMESPACE
from compiler.cost.roofline import Roofline
from compiler.device import Device, DeviceProfile
from compiler.errors import UnstableMeasurementError, UnsupportedModelError, UsageError
from compiler.ir.graph import Graph
from compiler.plan import Plan
from compiler.records import Artifact, Measurement, Metric, Statistics
from compiler.search.experiments import Experiments, Outlook
from compiler.search.journal import Journal
from compiler.search.label_gate import LabelGate
from compiler.search.output_cost import CostEstimate, estimate
from compiler.search.prior import outlook
from compiler.search.space import Choice, Space
from compiler.search.trial import Reading
from compiler.search.wording import in_words
from compiler.target import Target
from devices.benchmark import Candidate, measure
from devices.database import MeasurementDatabase
from devices.statistics import ratio
from edgewright.search_costs import CostReader
from edgewright.search_lowering import VariantStore, variant_candidate
from edgewright.search_samples import Halves, Sample
from edgewright.search_steps import counted, told
from edgewright.search_structures import Structures
from edgewright.stages import Progress, silent

FIRST_RUN_ROUNDS = (
    24  # the first run fits a model and holds every variant; trials get the profile's full protocol
)
AT_ONCE = 8  # variants whose costs are read side by side; an interruption loses those
LEAST_PAIRS = 5  # of clean rounds, for a ratio and its interval
PERCENTILES = {"p50": 0.5, "p90": 0.9}

Heals = tuple[str, ...]
Variant = tuple[Choice, Heals]


@dataclass
class Lab:
    """All that experiments on one model need.

    `paired` tells that decisions rest on ratios of interleaved rounds (a budget such as `0.7x`),
    not on the clock; drift of the machine then does no harm. `percentile` is what readings are of.
    `elsewhere` is what plans changed on another device (`edgewright.search_warm_start`).
    """

    space: Space
    structures: Structures
    costs: CostReader
    prior: Roofline
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
    percentile: str = "p50"
    labels: LabelGate | None = None
    sized: bool = False
    elsewhere: Mapping[str, float] = field(default_factory=dict)
    _healed: dict[Variant, Graph] = field(default_factory=dict)

    def experiments(self) -> Experiments:
        """Return what a search may ask here."""
        return Experiments(
            measure=self.measure,
            cost=self.cost,
            second=self.second if self.halves.second else None,
            size=self.size if self.sized else None,
            outlook=self.outlook,
            refuses=self.refuses,
            gate=self.gate,
            costs=self.cost_all,
        )

    def plan(self, choice: Choice, heals: Heals = ()) -> Plan:
        """Return the plan of a choice with its healing."""
        return healed(self.space.plan(choice), heals)

    def graph(self, choice: Choice, heals: Heals = ()) -> Graph:
        """Return the graph of a choice, healed."""
        if not heals:
            return self.structures.of(self.space.plan(choice))
        if (choice, heals) not in self._healed:
            before, samples = self.graph(choice, heals[:-1]), self.halves.seen[: self.most_samples]
            original = self.structures.original(self.space.plan(choice))
            after = heal(before, original, heals[-1:], samples, self.seed)
            self._healed[choice, heals] = after
        return self._healed[choice, heals]

    def artifact(self, choice: Choice, heals: Heals = ()) -> Artifact:
        """Return the lowered variant of a choice."""
        return self.store.start(self.plan(choice, heals), lambda: self.graph(choice, heals)).result()

    def size(self, choice: Choice, heals: Heals = ()) -> int:
        """Return the bytes of a choice's program."""
        found: Any = self.artifact(choice, heals).manifest["bytes"]
        return int(found)

    def refuses(self, choice: Choice) -> str | None:
        """Return why a choice's graph cannot be made, None where it can."""
        if not self.space.structural(choice):
            return None
        reason = self.journal.once(lambda: self._refusal(choice), "refusal", self._name(choice))
        return str(reason) or None

    def outlook(self, choice: Choice) -> Outlook:
        """Return what another device measured of a choice, or else what the roofline prior expects of it."""
        expected = self._expected(choice, lambda: self._shaped(choice))
        known = self.elsewhere.get(self._name(choice))
        return expected if known is None else Outlook(known, max(expected.most, -known))

    def gate(self, choice: Choice, heals: Heals = ()) -> str | None:
        """Return why labels are against a choice, None where they are not or there are none."""
        labels = self.labels
        if labels is None:
            return None

        def make() -> dict[str, object]:
            found = self.costs.judge(self.graph(choice, heals), labels)
            return {"passed": found.passed, "text": found.text}

        said = self.journal.once(make, "labels", str(labels.most_drop), self._name(choice, heals))
        return None if said["passed"] else str(said["text"])

    def prepare(self, choices: Sequence[Choice], costs: bool) -> None:
        """Lower the variants of a run side by side, and read their costs meanwhile."""
        if self._measured([(c, ()) for c in choices]) is None:
            jobs = [self.store.start(self.plan(c), lambda c=c: self.graph(c)) for c in choices]  # type: ignore[misc]  # the default binds the loop's value
        else:
            jobs = []
        if costs:
            self.cost_all([c for c in choices if c != self.space.base])
        waiting = not all(job.done() for job in jobs)
        tell = counted(self.progress if waiting else silent, "lower")
        for done, job in enumerate(jobs, start=1):
            job.result()
            tell(done, len(jobs))

    def cost_all(self, choices: Sequence[Choice]) -> None:
        """Read the costs of choices on half A, those that were not read yet side by side."""
        missing = [(c, ()) for c in choices if self.journal.get("cost", self._name(c)) is None]
        for start in range(0, len(missing), AT_ONCE):
            self._read("cost", missing[start : start + AT_ONCE], self.halves.seen, "costs")

    def cost(self, choice: Choice) -> CostEstimate:
        """Return the cost of one choice on half A."""
        return self._cost("cost", (choice, ()), self.halves.seen, "costs")

    def second(self, choice: Choice, heals: Heals = ()) -> CostEstimate:
        """Return the cost of a choice on the first part of half B."""
        return self._cost("second cost", (choice, heals), self.halves.second, "second half")

    def unseen_cost(self, choice: Choice, heals: Heals = ()) -> CostEstimate:
        """Return the cost of a choice on the last part of half B, which nothing before has looked at."""
        return self._cost("unseen cost", (choice, heals), self.halves.last, "unseen half")

    def seen_cost(self, choice: Choice, heals: Heals) -> CostEstimate:
        """Return the cost of a healed choice on half A."""
        return self._cost("cost", (choice, heals), self.halves.seen, "costs")

    def measure(self, choices: Sequence[Choice], heals: Heals = ()) -> Mapping[Choice, Reading]:
        """Measure choices interleaved with the base; raises UnstableMeasurementError."""
        variants = [(c, heals) for c in choices]
        found = self._measured(variants)
        if found is None:
            found = {self._name(*v): asdict(r) for v, r in self._measure(variants).items()}
            self.journal.put(found, "measure", self.percentile, *self._names(variants))
        return {c: Reading(**found[self._name(c, heals)]) for c in choices}

    def _shaped(self, choice: Choice) -> Graph:
        """Return a graph with a choice's operations and shapes; many options are looked at, few measured."""
        if len(self.space.taken(choice)) == 1 and self.space.structural(choice):
            with suppress(UsageError):  # a sketch's samples are too few for some methods
                return self.structures.sketch(self.space.plan(choice))
        return self.graph(choice)

    def _expected(self, choice: Choice, graph: Callable[[], Graph]) -> Outlook:
        def make() -> dict[str, float]:
            return asdict(outlook(self.structures.graph, graph(), self.prior))

        return Outlook(**self.journal.once(make, "outlook", self._name(choice)))

    def _refusal(self, choice: Choice) -> str:
        """Return why a graph cannot be made or run, empty where it can."""
        try:
            graph = self._shaped(choice)
        except (UsageError, UnsupportedModelError) as error:
            return f"{self.label(choice)}: {error}"
        self._expected(choice, lambda: graph)  # while there is a graph
        new = [n for n in graph.ops() if n.name not in self.structures.graph]
        reasons = (self.target.refuses(n) for n in new if not n.op.startswith(NAMESPACE))
        reason = next(filter(None, reasons), "")
        return f"{self.label(choice)}: {reason}" if reason else ""

    def _cost(self, key: str, variant: Variant, samples: Sequence[Sample], label: str) -> CostEstimate:
        if self.journal.get(key, self._name(*variant)) is None:
            self._read(key, [variant], samples, label)
        return CostEstimate(**self.journal.get(key, self._name(*variant)))

    def _read(self, key: str, variants: Sequence[Variant], samples: Sequence[Sample], label: str) -> None:
        graphs = {v: self.graph(*v) for v in variants}
        for variant, found in self.costs.read(graphs, samples[: self.most_samples], label).items():
            self.journal.put(asdict(estimate(found, self.seed)), key, self._name(*variant))

    def _measured(self, variants: Sequence[Variant]) -> dict[str, dict[str, Any]] | None:
        found: dict[str, dict[str, Any]] | None = self.journal.get(
            "measure", self.percentile, *self._names(variants)
        )
        return found

    def _names(self, variants: Sequence[Variant]) -> list[str]:
        return sorted(self._name(*v) for v in variants)

    def _name(self, choice: Choice, heals: Heals = ()) -> str:
        return self.plan(choice, heals).digest()

    def _measure(self, variants: Sequence[Variant]) -> dict[Variant, Reading]:
        base = (self.space.base, ())
        run = list(dict.fromkeys([base, *variants]))
        single = len(variants) == 1
        if not any(heals for _, heals in variants):
            self.prepare([c for c, _ in run], costs=single)
        started = time.monotonic()
        found = self._measure_patiently(run, single)
        seconds = (time.monotonic() - started) / len(variants)
        return {v: replace(found[v], seconds=seconds) for v in variants}

    def _measure_patiently(self, run: Sequence[Variant], single: bool) -> dict[Variant, Reading]:
        short = _shortened(self.profile)
        if single or short == self.profile:
            return self._measure_run(run, self.profile)
        try:
            return self._measure_run(run, short)
        except UnstableMeasurementError as error:
            self.progress(f"measure again, for longer: {error}")
            return self._measure_run(run, self.profile)

    def _measure_run(self, run: Sequence[Variant], profile: DeviceProfile) -> dict[Variant, Reading]:
        series = hashlib.sha256(" ".join([self.identity, *self._names(run)]).encode()).hexdigest()[:16]
        candidates = [self._candidate(v, f"search {series}") for v in run]
        found = measure(candidates, self.device, profile, self.database, told(self.progress, len(run)))
        readings = {v: self._reading(m, found[0]) for v, m in zip(run, found, strict=True)}
        if not self.paired:
            for judged in found if len(run) == 2 else found[:1]:
                self._check_steady(judged)
        return readings

    def _candidate(self, variant: Variant, series: str) -> Candidate:
        return variant_candidate(
            self.artifact(*variant), self.target, self.profile, self.label(*variant), series
        )

    def label(self, choice: Choice, heals: Heals = ()) -> str:
        """Return a choice in a few words."""
        return in_words(self.space, choice, heals)

    def _reading(self, found: Measurement, base: Measurement) -> Reading:
        """Return the paired reading; raises UnstableMeasurementError where pairs are few or disagree."""
        counted = found.metric is Metric.INSTRUCTIONS
        least = self.profile.protocol.min_rounds if counted else LEAST_PAIRS  # counts repeat
        unit = "M instructions" if counted else " ms"
        median, other = found.statistics.median / 1e6, base.statistics.median / 1e6
        label = f"{median:.3f}{unit} beside {other:.3f}{unit}"
        try:
            # clean rounds only: a throttled one decides nothing
            pair = ratio(found.rounds, base.rounds, quantile=PERCENTILES[self.percentile])
        except ValueError as error:
            raise self._unstable(f"two variants cannot be compared ({label}): {error}") from error
        width = (pair.high - pair.low) / 2 / pair.value
        if pair.rounds < least or width > self.profile.protocol.unstable_width:
            raise self._unstable(
                f"two variants cannot be compared ({label}): {pair.rounds} pairs of clean rounds, "
                f"{least} needed; interval of their ratio ±{100 * width:.1f}%"
            )
        own, beside = (self._bounds(m.statistics) for m in (found, base))
        return Reading(
            pair.value, pair.low, pair.high, *own, beside[0], counted=counted, percentile=self.percentile
        )

    def _bounds(self, found: Statistics) -> tuple[float, float, float]:
        """Return the percentile that readings are of, with its bounds."""
        if self.percentile == "p50":
            return found.median, found.low, found.high
        if found.p90_low is None or found.p90_high is None:
            raise self._unstable(f"{found.count} samples give no bound of the 90th percentile")
        return found.p90, found.p90_low, found.p90_high

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
