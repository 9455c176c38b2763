"""A search's result as the values of its report.

The report reads what every search has: trials with readings and costs, the space's plans and the fitted
model's `predict`. A decision's change of the latency is the difference it makes within the chosen plan,

    change = T(plan) - T(plan with this site kept),

conversions between formats included, so that changes of neighbours need not add up.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping

from compiler.cost.latency_table import LatencyTable
from compiler.cost.roofline import PRIOR, Roofline
from compiler.cost.waterline import (
    GraphKernel,
    Machine,
    graph_waterline,
    measured_machine,
    measured_times,
    prior_machine,
)
from compiler.ir.graph import Graph
from compiler.plan import Decision
from compiler.search.loop import Reading, Trial
from compiler.search.output_cost import CostEstimate
from compiler.search.space import Choice, Space
from edgewright.search_output import UNITS, Row, SearchResult
from edgewright.search_report.data import Departure, Interval, KernelRow, PlanRow, ReportData, Variant

FREE_OF_COST = Interval(0.0, 0.0, 0.0)  # what the merged float model costs

Graphs = Callable[[Trial], Graph]
Made = tuple[Choice, tuple[str, ...]]  # a choice and how it was healed


def report_data(
    result: SearchResult, graphs: Graphs, table: LatencyTable | None = None, prior: Roofline = PRIOR
) -> ReportData:
    """Return the report of a search; `graphs` gives the graph of any trial.

    `table` holds kernels measured on the same device, None or empty where there are none: the roofline
    is then the prior's, scaled so that the most efficient variant lies on it.
    """
    work = {_made(row.trial): graph_waterline(graphs(row.trial)) for row in result.rows}
    known = measured_machine(table) if table is not None else None
    machine = known or _scaled(prior_machine(prior), result, work)
    winner = result.outcome.winner
    unit, each = ("instructions", 1.0) if winner.reading.counted else ("µs", 1e3)
    return ReportData(
        model=result.model,
        device=_device(result),
        target=_target(result),
        budget=str(result.budget),
        limit=_scale(result, winner.reading) * result.budget.limit(winner.reading.base_ns),
        upper=_scale(result, winner.reading) * winner.reading.upper(result.budget),
        unit=_unit(result),
        cost_unit=UNITS[result.kind],
        variants=_variants(result, work, machine),
        plan=_plan(result),
        departures=_departures(result),
        kernels=_kernels(graphs(winner), work[_made(winner)], machine, table, each),
        kernel_unit=unit,
        machine=_machine_text(machine),
        unseen=None if result.unseen is None else _cost(result.unseen),
        samples=0 if result.unseen is None else result.unseen.samples,
        advice=tuple(result.advice),
    )


def _made(trial: Trial) -> Made:
    return trial.choice, trial.heals


def _unit(result: SearchResult) -> str:
    if result.budget.ratio is not None:
        return "× merged float model"
    return "M instructions" if result.outcome.winner.reading.counted else "ms"


def _scale(result: SearchResult, reading: Reading) -> float:
    """Return what turns a multiple of the base into the budget's unit."""
    return 1.0 if result.budget.ratio is not None else reading.base_ns / 1e6


def _latency(result: SearchResult, reading: Reading) -> Interval:
    if result.budget.ratio is not None:
        return Interval(reading.ratio, reading.ratio_low, reading.ratio_high)
    return Interval(reading.median_ns / 1e6, reading.low_ns / 1e6, reading.high_ns / 1e6)


def _cost(cost: CostEstimate) -> Interval:
    return Interval(cost.mean, cost.low, cost.high)


def _trial_cost(space: Space, trial: Trial) -> Interval | None:
    if trial.choice == space.base:
        return FREE_OF_COST
    return None if trial.cost is None else _cost(trial.cost)


def _variants(
    result: SearchResult, work: Mapping[Made, tuple[GraphKernel, ...]], machine: Machine
) -> tuple[Variant, ...]:
    front = _front(result)
    return tuple(_variant(result, row, front, machine.total(work[_made(row.trial)])) for row in result.rows)


def _variant(result: SearchResult, row: Row, front: frozenset[Made], ideal_ns: float) -> Variant:
    trial, model = row.trial, result.outcome.model
    scale, reading = _scale(result, row.trial.reading), row.trial.reading
    return Variant(
        name=row.name,
        latency=_latency(result, reading),
        cost=_trial_cost(result.space, trial),
        within=reading.within(result.budget),
        chosen=trial == result.outcome.winner,
        front=_made(trial) in front,
        bytes=row.bytes,
        predicted=None if trial.predicted is None else scale * trial.predicted,
        fitted=None if model is None else _finite(scale * model.predict(trial.choice)),
        ideal=scale * ideal_ns / reading.base_ns,
    )


def _front(result: SearchResult) -> frozenset[Made]:
    """Return the trials that no other beats in both latency and cost."""
    known = [(t, c) for t in result.outcome.trials if (c := _trial_cost(result.space, t)) is not None]
    best, found = float("inf"), []
    for trial, cost in sorted(known, key=lambda pair: (pair[0].reading.ratio, pair[1].value)):
        if cost.value < best:
            best = cost.value
            found.append(_made(trial))
    return frozenset(found)


def _departure(space: Space, choice: Choice) -> Decision:
    """Return what a choice with one departure decides that the base does not."""
    kept = set(space.plan(space.base).decisions)
    return next(d for d in space.plan(choice).decisions if d not in kept)


def _plan(result: SearchResult) -> tuple[PlanRow, ...]:
    space, chosen = result.space, result.outcome.winner.choice
    costs = {t.choice: t.cost for t in result.outcome.trials if t.cost is not None and not t.heals}
    rows = []
    for index, site in enumerate(space.sites):
        option = chosen[index]
        if not option and len(site.options) == 1:
            continue  # nothing to decide
        alone = space.single(index, option or 1)
        decision, cost = _departure(space, alone), costs.get(alone)
        row = PlanRow(
            _module(site.name),
            site.name,
            decision.method,
            decision.option if option else None,
            _change(result, index) if option else None,
            _cost(cost) if option and cost is not None else None,
        )
        rows.append(row)
    return tuple(_by_module(rows))


def _change(result: SearchResult, site: int) -> float | None:
    winner, model = result.outcome.winner, result.outcome.model
    if model is None:
        return None
    kept = tuple(0 if i == site else o for i, o in enumerate(winner.choice))
    return _finite(_scale(result, winner.reading) * (model.predict(winner.choice) - model.predict(kept)))


def _finite(value: float) -> float | None:
    """Return a prediction, None where an option of it was never measured alone."""
    return value if math.isfinite(value) else None


def _module(site: str) -> str:
    """Return the modules a site's name holds, without what kind of site it is."""
    return site.split(":", 1)[-1]


def _by_module(rows: list[PlanRow]) -> list[PlanRow]:
    order = {module: i for i, module in enumerate(dict.fromkeys(r.module for r in rows))}
    return sorted(rows, key=lambda r: order[r.module])


def _departures(result: SearchResult) -> tuple[Departure, ...]:
    space, winner = result.space, result.outcome.winner.choice
    found = []
    for trial in result.outcome.trials:
        changed = [i for i, option in enumerate(trial.choice) if option]
        if len(changed) != 1 or trial.cost is None or trial.heals:
            continue
        decision, site = _departure(space, trial.choice), changed[0]
        taken = winner[site] == trial.choice[site]
        costs = _cost(trial.cost), _latency(result, trial.reading)
        found.append(Departure(decision.site, decision.method, decision.option, *costs, taken))
    return tuple(sorted(found, key=lambda d: -d.cost.value))


def _kernels(
    graph: Graph,
    kernels: tuple[GraphKernel, ...],
    machine: Machine,
    table: LatencyTable | None,
    each: float,
) -> tuple[KernelRow, ...]:
    known = machine.measured and table is not None
    times = measured_times(graph, kernels, table) if known and table is not None else (None,) * len(kernels)
    return tuple(
        KernelRow(
            name=k.node,
            op=k.op,
            module=k.module,
            precision=k.precision,
            operations=k.operations,
            bytes=k.bytes,
            intensity=k.intensity,
            balance=machine.balance(k.precision),
            bound=machine.bound(k),
            attainable=machine.attainable(k) / each,
            measured=None if time is None else time / each,
        )
        for k, time in zip(kernels, times, strict=True)
    )


def _scaled(machine: Machine, result: SearchResult, work: Mapping[Made, tuple[GraphKernel, ...]]) -> Machine:
    """Return a prior's machine as fast as it must be for the most efficient variant to be ideal."""
    needed = [
        machine.total(work[_made(t)]) / (t.reading.ratio * t.reading.base_ns) for t in result.outcome.trials
    ]
    return machine.faster(max(needed, default=0.0) or 1.0)


def _machine_text(machine: Machine) -> str:
    if machine.measured:
        return f"the highest rates that any of {machine.measured} kernels measured on this device reached"
    return (
        "a prior for mobile processors, scaled so that the most efficient variant lies on it, for no kernel "
        "of this device has been measured: gaps can be compared with one another, and say nothing alone"
    )


def _device(result: SearchResult) -> str:
    return str(result.digests.get("device", "the device")).rsplit(" ", 1)[0]


def _target(result: SearchResult) -> str:
    try:
        return str(json.loads(result.digests["target"])["target"])
    except (KeyError, ValueError):
        return str(result.artifact.manifest.get("target", ""))
