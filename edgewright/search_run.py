"""Runs a search on a prepared model: opens the lab, asks the loop, judges and writes the winner.

While it runs, the work lies in OUT/work with a journal of finished results: the same command run again
goes on where it stopped, and a changed model, calibration, profile, device or runtime starts afresh.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from compiler.compress.decision import Setting as StructureSetting
from compiler.compress.keep_branches import METHOD as BRANCHES
from compiler.compress.rounding import ROUNDING
from compiler.compress.segments import segments
from compiler.compress.structure import structure_offers
from compiler.device import DeviceProfile
from compiler.ir.graph import Graph
from compiler.plan import Plan
from compiler.records import Artifact
from compiler.search.journal import Journal
from compiler.search.loop import first_run, search_loop
from compiler.search.output_cost import cost_kind
from compiler.search.space import PRECISION
from compiler.search.strategy import Setting as StrategySetting
from compiler.search.strategy import open_strategy
from compiler.search.trial import Outcome, Trial
from compiler.target import FLOAT16, INT4, INT8, INT8_DYNAMIC
from devices.latency import conditions, latency_table
from edgewright.compilation import assemble
from edgewright.measuring import exclusive
from edgewright.recipe import Recipe, prior_of
from edgewright.search_costs import CostReader
from edgewright.search_healing import heal_winner
from edgewright.search_lab import Lab
from edgewright.search_lowering import VariantStore
from edgewright.search_output import Row, SearchResult, write_documents
from edgewright.search_report import write_report
from edgewright.search_rounding import Rounding
from edgewright.search_samples import Halves
from edgewright.search_setting import (
    FIT_SAMPLES,
    INTEGER,
    MOST_SAMPLES,
    RANGE_SAMPLES,
    Setting,
    identity,
)
from edgewright.search_space import Offers, Precisions, heaviest, make_space
from edgewright.search_structures import Structures
from edgewright.search_watch import chosen, watching
from edgewright.stages import Method, Prepared, Stage


def run_search(prepared: Prepared, halves: Halves, setting: Setting) -> SearchResult:
    """Search on a prepared model with samples in two halves."""
    with opened(prepared, halves, setting) as lab:
        result = search_point(prepared, lab, setting, ())
    shutil.rmtree(setting.out / "work")
    return result


@contextmanager
def opened(prepared: Prepared, halves: Halves, setting: Setting) -> Iterator[Lab]:
    """Yield the lab of a search, its device taken and its work kept in OUT/work."""
    work, known = setting.out / "work", identity(prepared.graph, halves, setting)
    work.mkdir(parents=True, exist_ok=True)
    journal = Journal(work / "journal.jsonl", known, setting.resume)
    if not len(journal):  # of another model, or of a search not to be resumed
        for made in ("variants", "structures"):
            shutil.rmtree(work / made, ignore_errors=True)
    with ExitStack() as stack:
        structures = _structures(prepared, halves, journal, setting)
        prior = prior_of(setting.target)
        offers = heaviest(prepared.graph, _offers(prepared.graph, structures, setting), prior)
        store = VariantStore(work / "variants", setting.target, setting.profile, setting.workers)
        ours = exclusive(setting.device, setting.database, setting.wait_s, setting.progress)
        costs = CostReader(prepared.graph, cost_kind(prepared.graph, setting.cost), setting.progress)
        precisions = _precisions(structures, costs, halves, setting)
        yield Lab(
            space=make_space(structures.segments, prepared.graph, offers, prior, precisions),
            structures=structures,
            costs=costs,
            prior=prior,
            halves=halves,
            target=setting.target,
            profile=setting.profile,
            device=setting.device,
            database=stack.enter_context(ours),
            journal=journal,
            store=stack.enter_context(store),
            seed=setting.seed,
            progress=setting.progress,
            most_samples=MOST_SAMPLES,
            identity=json.dumps(known, sort_keys=True),
            paired=setting.budget.ratio is not None,
            percentile=setting.percentile,
            labels=setting.labels,
            sized=setting.max_bytes is not None,
            elsewhere=setting.elsewhere,
        )


def search_point(prepared: Prepared, lab: Lab, setting: Setting, known: Sequence[Trial]) -> SearchResult:
    """Search for one budget and write what comes of it; `known` was measured for others."""
    outcome = _loop(prepared.model.spec, lab, setting, known)
    outcome = heal_winner(lab, outcome, setting.budget, _most_bytes(setting))
    chosen(outcome.winner, lab, setting)
    return _finish(prepared, lab, outcome, setting)


def _offers(graph: Graph, structures: Structures, setting: Setting) -> Offers:
    offers = structure_offers(graph, structures.setting, setting.methods)
    setting.progress(f"structure: {len(offers)} places where it can change")
    return offers


def _structures(prepared: Prepared, halves: Halves, journal: Journal, setting: Setting) -> Structures:
    seen = halves.seen
    return Structures(
        graph=prepared.graph,
        segments=segments(prepared.graph),
        target=setting.target,
        samples=seen[:RANGE_SAMPLES],
        setting=StructureSetting(
            seen[:FIT_SAMPLES],
            donor=setting.donor,
            bytes_limited=setting.max_bytes is not None and setting.target.folds_at_load,
        ),
        journal=journal,
        folder=setting.out / "work" / "structures",
        progress=setting.progress,
        branches=prepared.branches,
    )


def _precisions(structures: Structures, costs: CostReader, halves: Halves, setting: Setting) -> Precisions:
    """Return what each precision can do for the merged model, and how int8 and int4 are rounded."""
    if not setting.takes(PRECISION):
        return Precisions()
    calibrated = structures.calibrated()
    able = {INT8: calibrated.inputs | calibrated.outputs, INT8_DYNAMIC: structures.dynamic()}
    able |= {INT4: structures.int4_layers(), FLOAT16: structures.half_layers()}
    found = {p: names for p, names in able.items() if names}
    branches = structures.branches if BRANCHES in (setting.methods or ()) else None  # where it is asked for
    if not setting.takes(ROUNDING):
        return Precisions(found, branches=branches)
    seen = halves.seen[:MOST_SAMPLES]
    steps = Rounding(structures, costs, seen, structures.journal, setting.progress).chosen()
    return Precisions(found, steps, branches)


def _most_bytes(setting: Setting) -> float:
    return math.inf if setting.max_bytes is None else float(setting.max_bytes)


def _loop(model: str, lab: Lab, setting: Setting, known: Sequence[Trial]) -> Outcome:
    space, budget = lab.space, setting.budget
    alone = [c for c in first_run(space, budget) if not space.structural(c)]
    lab.prepare(alone[: len(alone) if setting.limits.measurements is None else 1], costs=not known)
    named = StrategySetting(space, budget, setting.seed, _most_bytes(setting))
    strategy = open_strategy(setting.strategy, named)
    return search_loop(
        space,
        budget,
        lab.experiments(),
        setting.limits,
        most_bytes=_most_bytes(setting),
        known=known,
        propose=None if setting.strategy == INTEGER else strategy.propose,
        note=setting.progress,
        watch=watching(model, lab, setting, named),
    )


def _finish(prepared: Prepared, lab: Lab, outcome: Outcome, setting: Setting) -> SearchResult:
    """Judge the winner on the unseen half, verify and write it, and write the tables."""
    winner = outcome.winner
    plan = lab.plan(winner.choice, winner.heals)
    unseen = lab.unseen_cost(winner.choice, winner.heals) if any(winner.choice) else None
    artifact = _assemble(prepared, lab, winner, plan, setting)
    rows = [Row(lab.label(t.choice, t.heals), t, lab.size(t.choice, t.heals)) for t in outcome.trials]
    result = SearchResult(
        folder=setting.out,
        artifact=artifact,
        plan=plan,
        model=prepared.model.spec,
        budget=setting.budget,
        space=lab.space,
        outcome=outcome,
        rows=tuple(rows),
        kind=lab.costs.kind,
        unseen=unseen,
        digests=json.loads(lab.identity),
        advice=(*filter(None, [lab.halves.advice]), *setting.advice),
    )
    write_documents(result)
    table = latency_table(lab.database, conditions(setting.device, setting.target, setting.profile))
    write_report(result, lambda t: lab.graph(t.choice, t.heals), table, prior_of(setting.target))
    return result


def _assemble(prepared: Prepared, lab: Lab, winner: Trial, plan: Plan, setting: Setting) -> Artifact:
    """Make the winner a verified artifact folder, from the very files that were measured."""
    variant = lab.artifact(winner.choice, winner.heals)

    def copied(methods: Mapping[str, Graph], profile: DeviceProfile, folder: Path) -> Any:
        lowered = lab.store.lowered(variant)
        for name in lowered.files:
            shutil.copyfile(variant.folder / name, folder / name)
        return lowered

    graph = lab.graph(winner.choice, winner.heals)
    stage = None if graph is prepared.graph else Stage("compress", graph, 0.0)
    recipe = Recipe(setting.target, setting.profile, plan)
    methods = [Method(prepared, stage)]
    return assemble(methods, recipe, setting.out / "artifact", setting.progress, copied)
