"""`edgewright profiles`: list, show, check, or write one from what a device reports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgewright.cli import options, show
from edgewright.cli.default_group import DefaultGroup
from edgewright.cli.output import emit_json, working

profiles_app = typer.Typer(
    cls=DefaultGroup,
    help="List the device profiles, show and check one, or detect one.",
    no_args_is_help=False,
)


@profiles_app.command("show")
def show_command(
    profile: Annotated[
        str | None, typer.Argument(metavar="PROFILE", help="Show and check one profile.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the device profiles, or show and check one (`show` may be left out)."""
    from edgewright.listings import profile_document, profiles_document

    document = profiles_document() if profile is None else profile_document(profile)
    emit_json(document) if as_json else show.profiles(document)


@profiles_app.command("detect")
def detect_command(
    device: options.Device = "local",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="The file to write; stdout without.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Write a new profile from what a device reports."""
    with working("detect") as progress:
        progress(f"read {device}")
        from edgewright.detection import detect

        document = detect(device, out).document()
    emit_json(document) if as_json else show.detected(document)
