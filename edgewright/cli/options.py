"""The options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edgewright.models import InputSpec

Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="timm:NAME, package.module:attr, file.py:attr or x.pt2"),
]
Profile = Annotated[
    str, typer.Option(help="A device profile: a name from `edgewright profiles`, or a .toml file.")
]
Target = Annotated[str | None, typer.Option(help="The runtime; the profile's first one by default.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", help="1x3x224x224, or name=1x128:int64; once an input."),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")]
Randomize = Annotated[
    int | None,
    typer.Option(
        metavar="SEED",
        help="Randomise BatchNorm statistics, affine parameters and scales, to make merging non-trivial.",
    ),
]
DynamicBatch = Annotated[bool, typer.Option(help="Leave the first dimension of every input open.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Database = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="Where measurements are kept; an SQLite file in the XDG data folder by default."
    ),
]
Device = Annotated[str, typer.Option(help="local, or a device from `edgewright devices`.")]


def read_inputs(texts: list[str] | None) -> list[InputSpec]:
    """Read the `--input` options; raises UsageError."""
    from edgewright.models import parse_input  # loads torch, which --help does without

    return [parse_input(text) for text in texts or ()]


def database_url(given: str | None) -> str:
    """Return the database asked for, or the path of the user's own."""
    home = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return given or str(Path(home) / "edgewright" / "measurements.db")


def read_batches(spec: str | None) -> Any:
    """Return the calibration batches that `file.py:attr` names; raises UsageError."""
    if spec is None:
        return ()
    from edgewright.models.batches import load_batches

    return load_batches(spec)
