"""`edgewright farm`: several artifacts on several devices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from edgewright.cli import options
from edgewright.cli.output import emit_json, emit_table, working


def farm_command(
    artifacts: Annotated[
        list[Path], typer.Argument(metavar="ARTIFACT...", help="Folders that `compile` wrote.")
    ],
    device: Annotated[
        list[str], typer.Option("--device", help="A device from `edgewright devices`; once for each.")
    ],
    profile: Annotated[
        str | None, typer.Option(help="How to run; the profile each was compiled for by default.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="The method of the programs to run; the first one by default.")
    ] = None,
    database: options.Database = None,
    again: Annotated[
        bool, typer.Option("--again", help="Measure anew what the database has a steady reading of.")
    ] = False,
    allow_unstable: Annotated[
        bool, typer.Option("--allow-unstable", help="End with 0 where a reading is not steady.")
    ] = False,
    job_timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=1, help="How long one artifact may take on one device."),
    ] = None,
    wait: options.Wait = None,
    as_json: options.Json = False,
) -> None:
    """Profile artifacts on every kind of the given devices; equal devices share the work."""
    with working("farm") as progress:
        progress("start")
        from devices.farm import Limits
        from edgewright.farming import profile_on_farm

        done = profile_on_farm(
            artifacts,
            device,
            database=options.database_url(database),
            profile=profile,
            method=method,
            again=again,
            limits=Limits(job_s=job_timeout),
            wait_s=wait,
            progress=progress,
        )
    document = done.document()
    emit_json(document) if as_json else _show(document)
    code = done.exit_code
    raise typer.Exit(0 if code == 7 and allow_unstable else code)


def _show(document: Mapping[str, Any]) -> None:
    emit_table(
        "measured",
        ("artifact", "device", "median", "95% interval", "rounds", "steady"),
        [_measured(one) for one in document["measurements"]],
    )
    failed = [(f["artifact"], ", ".join(f["devices"]), f["message"]) for f in document["failed"]]
    if failed:
        emit_table("failed", ("artifact", "devices", "reason"), failed)
    devices = [(d["device"], d["done"], d["faults"], d["reason"] or "works") for d in document["devices"]]
    emit_table("devices", ("device", "done", "faults", "state"), devices)


def _measured(one: Mapping[str, Any]) -> tuple[object, ...]:
    scale, unit = (1e6, "ms") if "median_ns" in one else (1, "instructions")
    median, low, high = (
        next(one[f"{name}_{u}"] for u in ("ns", "count") if f"{name}_{u}" in one) / scale
        for name in ("median", "low", "high")
    )
    steady = "yes" if one["stable"] else "NO"
    interval = f"{low:.4g} to {high:.4g}"
    return one["artifact"], one["device"], f"{median:.4g} {unit}", interval, one["rounds"], steady
