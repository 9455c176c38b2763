"""Kernels in the measurement database: how they are measured, and the latency table as a query.

A kernel is measured as a program of its own. Runs of up to `RUN_KERNELS` kernels are interleaved,
round by round, with two chains of 1 and of 9 tiny operations (`CHAINS`). A program of n tiny
operations takes T_n = fixed + n launch, so the fixed cost of a call, which a kernel inside a model
does not pay, is

    fixed = T_1 - (T_9 - T_1) / 8,    at least 0, at most the upper bound of T_1,

and a kernel's latency is its program's time less `fixed`: the launch of its own operation stays in
it, because a model pays that once for each operation. The bounds of such a combination of medians
follow from the bounds of its terms by the method of variance estimates recovery (Zou and Donner,
Statistics in Medicine 27, 2008): the distances to the bounds add up as squares.

Rows are ordinary measurements, of raw and whole programs. A kernel's row has the kernel's text as
its label; `series` names the run it belongs to, so that it is compared with the chains of that run.
Subtracting is the query's business.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from compiler.cost.latency_table import Entry, LatencyTable
from compiler.device import Device, DeviceProfile
from compiler.records import Measurement, Statistics
from compiler.target import Target
from devices.benchmark import Candidate, Report, measure
from devices.database import MeasurementDatabase, Summary, fingerprint_digest
from devices.programs import kept_programs

SERIES = "kernels/1 "  # then the run and the program; a new way to measure starts a new number
RUN_KERNELS = 12  # runners of one run are up together: a process with a loaded runtime each
CHAINS = (1, 9)  # lengths
ROUND_S = 0.1
ROUNDS = 12
RESOLUTION = 1.0  # one nanosecond or instruction: what cannot be told from nothing still costs this


@dataclass(frozen=True)
class Conditions:
    """What the kernels of one table share: the device, the runtime with versions, how it is run."""

    device: str
    fingerprint: Mapping[str, str]
    target: Mapping[str, str]
    profile: DeviceProfile


def conditions(device: Device, target: Target, profile: DeviceProfile) -> Conditions:
    """Return the conditions under which kernels are measured now; DeviceError where it cannot be asked."""
    versions = {"target": target.name, **target.versions()}
    return Conditions(device.name, dict(device.fingerprint()), versions, profile)


def kernel_profile(profile: DeviceProfile) -> DeviceProfile:
    """Return a profile whose protocol has shorter and fewer rounds: kernels are many and short.

    Their number is fixed, so that no time is spent between rounds on judging each program's interval:
    a dozen programs of microseconds would be judged for longer than they are measured.
    """
    protocol = profile.protocol
    rounds = max(protocol.min_rounds, min(protocol.max_rounds, ROUNDS))
    round_s = min(protocol.round_s, ROUND_S)
    return replace(profile, protocol=replace(protocol, round_s=round_s, min_rounds=rounds, max_rounds=rounds))


def split_runs(texts: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Yield the kernels of each run, by text in sorted order.

    The order makes runs the same again after an interruption: finished runs fall away in front,
    and the one that was cut off is found with its rounds.
    """
    ordered = sorted(set(texts))
    for start in range(0, len(ordered), RUN_KERNELS):
        yield tuple(ordered[start : start + RUN_KERNELS])


def measure_run(
    kernels: Sequence[Candidate],
    chains: Mapping[int, Candidate],
    device: Device,
    profile: DeviceProfile,
    database: MeasurementDatabase,
    progress: Report | None = None,
) -> list[Measurement]:
    """Measure the programs of kernels interleaved with the chains, and return the kernels' measurements.

    A kernel's label is its text; `chains` maps each length of `CHAINS` to its program. Rounds that
    an interrupted run of the same kernels has finished are kept. Raises what `measure` raises.
    """
    labelled = [replace(chains[length], label=chain_label(length)) for length in CHAINS]
    run = _digest("\n".join(sorted(c.label for c in kernels)))
    # The last word keeps apart kernels that lower to the same file.
    candidates = [replace(c, series=f"{SERIES}{run} {_digest(c.label)}") for c in (*kernels, *labelled)]
    return measure(candidates, device, kernel_profile(profile), database, progress)[: len(kernels)]


def chain_label(length: int) -> str:
    """Return the label of a chain's measurement."""
    return f"chain of {length} tiny operation{'s' * (length != 1)}"


def latency_table(database: MeasurementDatabase, under: Conditions) -> LatencyTable:
    """Return the table of all kernels with a steady reading under these conditions, newest first.

    It has no entries where nothing was measured. A device of another fingerprint, other versions, another
    thread count, protocol or metric is another population and never mixed in.
    """
    protocol = kernel_profile(under.profile)
    found = database.summaries(
        SERIES,
        fingerprint_digest=fingerprint_digest(under.fingerprint),
        profile=protocol.name,
        protocol_digest=protocol.protocol_digest(),
        metric=protocol.protocol.metric,
    )
    runs: dict[str, dict[str, Summary]] = {}
    for summary in found:
        if dict(summary.target) == dict(under.target):
            _add(runs.setdefault(summary.series.split()[1], {}), summary)
    entries: dict[str, tuple[int, Entry]] = {}
    fixed: Entry | None = None
    for run in runs.values():
        fixed = _fixed(run) or fixed
        for text, newest in _entries(run):
            entries[text] = max(entries.get(text, newest), newest, key=lambda pair: pair[0])
    return LatencyTable(
        device=_device_label(under),
        target=under.target["target"],
        threads=under.profile.threads,
        metric=protocol.protocol.metric,
        entries={text: entry for text, (_, entry) in sorted(entries.items())},
        fixed=fixed,
        programs={label: graph for label, graph in kept_programs(database).items() if label in entries},
    )


def _add(run: dict[str, Summary], summary: Summary) -> None:
    """Keep the newest steady reading of each program; a chain's, if it did not throttle, may be unsteady."""
    if summary.stable or (summary.label in map(chain_label, CHAINS) and not summary.throttled):
        run[summary.label] = summary


def _entries(run: Mapping[str, Summary]) -> Iterator[tuple[str, tuple[int, Entry]]]:
    fixed = _fixed(run)
    if fixed is None:
        return
    for label, summary in run.items():
        if label not in map(chain_label, CHAINS):
            own = _combine((1.0, _entry(summary.statistics)), (-1.0, fixed))
            # Less than the clock can tell, or than the noise of the chains: small, but not nothing.
            yield label, (summary.id, _bounded(own, RESOLUTION, math.inf))


def _fixed(run: Mapping[str, Summary]) -> Entry | None:
    """Return the fixed cost of a call in a run, None where a chain is missing.

    A chain need not be steady: its interval goes into that of every entry. One that is not because the
    clock fell is no reading: the run has no entries.
    """
    short, long = (run.get(chain_label(length)) for length in CHAINS)
    if short is None or long is None:
        return None
    launches = CHAINS[1] - CHAINS[0]
    one, many = _entry(short.statistics), _entry(long.statistics)
    return _bounded(_combine((1 + CHAINS[0] / launches, one), (-CHAINS[0] / launches, many)), 0.0, one.high)


def _combine(*terms: tuple[float, Entry]) -> Entry:
    """Return a sum of medians times factors with its interval (Zou and Donner 2008)."""
    median = sum(factor * entry.median for factor, entry in terms)
    below = [
        factor * ((entry.median - entry.low) if factor > 0 else (entry.median - entry.high))
        for factor, entry in terms
    ]
    above = [
        factor * ((entry.high - entry.median) if factor > 0 else (entry.low - entry.median))
        for factor, entry in terms
    ]
    return Entry(median, median - math.hypot(*below), median + math.hypot(*above))


def _bounded(entry: Entry, least: float, most: float) -> Entry:
    values = (min(max(value, least), most) for value in (entry.median, entry.low, entry.high))
    return Entry(*values)


def _entry(statistics: Statistics) -> Entry:
    return Entry(statistics.median, statistics.low, statistics.high)


def _device_label(under: Conditions) -> str:
    processor = under.fingerprint.get("processor")
    return f"{under.device} ({processor})" if processor else under.device


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
