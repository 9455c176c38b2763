"""`edgewright search`: the most accurate variant within a latency budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgewright.cli import options, show
from edgewright.cli.output import emit_json
from edgewright.cli.search_live import searching


def search_command(
    model: options.Model,
    latency_budget: options.LatencyBudget = None,
    sweep: options.Sweep = None,
    calibration: Annotated[str | None, typer.Option(metavar="FILE:ATTR", help="Calibration batches.")] = None,
    profile: options.Profile = "host",
    device: options.Device = "local",
    target: options.SearchTarget = None,
    inputs: options.Inputs = None,
    out: options.Out = Path("out"),
    percentile: Annotated[str, typer.Option(help="p50 or p90: whose upper bound meets the budget.")] = "p50",
    max_bytes: options.SearchBytes = None,
    labels: options.Labels = None,
    max_accuracy_drop: options.MaxAccuracyDrop = "1%",
    cost: options.Cost = None,
    strategy: options.Strategy = "integer",
    storage: options.Storage = None,
    donor: options.Donor = None,
    methods: options.Methods = None,
    calibration_select: options.CalibrationSelect = None,
    calibration_samples: Annotated[int, typer.Option(min=2, help="Select so many of a pool.")] = 500,
    warm_start: options.WarmStart = None,
    max_measurements: Annotated[int, typer.Option(min=1, help="Measure so many variants at most.")] = 32,
    max_device_seconds: Annotated[float | None, typer.Option(help="Take the device for so long.")] = None,
    database: options.Database = None,
    randomize: options.Randomize = None,
    wait: options.Wait = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the halves, the bootstrap and the strategy.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Find the most accurate variant within a latency budget, measured on the device."""
    with searching() as shown:
        shown.progress("start")
        from compiler.search.experiments import MeasurementBudget
        from edgewright.searching import search

        found = search(
            model,
            profile=profile,
            device=device,
            latency_budget=latency_budget,
            sweep=sweep,
            calibration=calibration,
            out=out,
            target=target,
            inputs=options.read_inputs(inputs),
            database=options.database_url(database),
            randomize=randomize,
            wait_s=wait,
            seed=seed,
            progress=shown.progress,
            watch=shown.watch,
            limits=MeasurementBudget(max_measurements, max_device_seconds),
            percentile=percentile,
            max_bytes=options.read_bytes(max_bytes),
            labels=labels,
            max_accuracy_drop=options.read_drop(max_accuracy_drop),
            strategy=strategy,
            storage=storage,
            cost=cost,
            donor=donor,
            methods=None if methods is None else methods.split(","),
            calibration_select=calibration_select,
            calibration_samples=calibration_samples,
            warm_start=warm_start,
        )
    emit_json(found.document()) if as_json else show.search(found.document())
