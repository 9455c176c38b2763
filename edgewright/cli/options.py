"""The options that several commands share."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compiler.errors import UsageError

if TYPE_CHECKING:
    from edgewright.models import InputSpec

UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def expand_device(spec: str | None) -> str | None:
    """Write out what the environment says of a device: ANDROID_SERIAL, ANDROID_ADB_SERVER_PORT."""
    from devices import expand_spec

    return None if spec is None else expand_spec(spec, os.environ)


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="timm:NAME, hf:NAME, torchvision:NAME, package.module:attr, file.py:attr, x.pt2 or x.onnx",
    ),
]
Profile = Annotated[
    str, typer.Option(help="A device profile: a name from `edgewright profiles`, or a .toml file.")
]
Target = Annotated[str | None, typer.Option(help="The runtime; the profile's first one by default.")]
AnyTarget = Annotated[
    str | None,
    typer.Option(
        help="The runtime; the profile's first one by default. `auto` builds, verifies and measures all of "
        "the profile's and keeps the fastest."
    ),
]
SearchTarget = Annotated[
    str | None,
    typer.Option(
        help="The runtime; the profile's first one by default. `auto` searches on each of the profile's and "
        "keeps the best."
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input", help="1x3x224x224, or name=1x128:int64; once an input. 1xTx512 marks the token axis."
    ),
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
Tokens = Annotated[
    str | None,
    typer.Option(
        metavar="1,128",
        help="One method of the program for each token count, forward_t1 and forward_t128, each layer in "
        "the form that is cheaper there. The token axis is the T of --input, or else the second axis of "
        "every example input of rank 2 and above.",
    ),
]
MaxBytes = Annotated[
    str | None,
    typer.Option(
        metavar="40MB",
        help="The most the program's files may take: 40MB, 512kB or bytes. Merges to larger forms are "
        "taken back, those first that save the least time per byte.",
    ),
]
LatencyBudget = Annotated[
    str | None, typer.Option(help="12ms, 800us, 3.2Minsn (emulated), or 0.7x of the merged float model.")
]
Sweep = Annotated[
    str | None,
    typer.Option(
        metavar="0.8x,0.6x", help="Several budgets from the same measurements: a folder each, and the front."
    ),
]
SearchBytes = Annotated[
    str | None,
    typer.Option("--max-bytes", metavar="40MB", help="The most the program may take: 40MB, 512kB or bytes."),
]
Labels = Annotated[
    str | None,
    typer.Option(
        metavar="FILE:ATTR",
        help="Labelled batches, (inputs, classes), on none of the calibration samples: a gate on the winner.",
    ),
]
MaxAccuracyDrop = Annotated[
    str,
    typer.Option(metavar="1%", help="The most accuracy a labelled winner may lose, with its interval."),
]
Cost = Annotated[str | None, typer.Option(help="kl, js or mse; by default what the model's outputs suggest.")]
Strategy = Annotated[str, typer.Option(help="What proposes: integer, evolution, nsga2, random or tpe.")]
Storage = Annotated[
    str | None, typer.Option(metavar="URL", help="A database in which Optuna's dashboard shows the trials.")
]
Donor = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="A second model of the family, to stitch in."),
]
Methods = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="The kinds of decisions, precision,prune_channels for example; all that there are by default.",
    ),
]
CalibrationSelect = Annotated[
    str | None,
    typer.Option(
        metavar="WAY",
        help="Choose the calibration samples out of a larger pool: random, margin, clusters, perplexity, or "
        "el2n from batches of (inputs, labels).",
    ),
]
WarmStart = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="An earlier search of this model on another device: what saved time there is measured first.",
    ),
]
Freeze = Annotated[
    list[str] | None,
    typer.Option(
        "--freeze",
        metavar="NAME=VALUE",
        help="An input that never changes: a number, a comma list, or a .npy, .pt or .safetensors file.",
    ),
]
ArgmaxOnly = Annotated[
    bool,
    typer.Option(
        "--argmax-only", help="Outputs have to rank as the model's do along their last axis, and no more."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Database = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="Where measurements are kept; an SQLite file in the XDG data folder by default."
    ),
]
Decide = Annotated[
    str,
    typer.Option(
        metavar="LIST",
        help="What the readings are for: merge (which form of a region), latency (the whole model, with the "
        "pairs that the runtime fuses), precision (float32 or int8), width (channels, by steps of 8).",
    ),
]
PricingDevice = Annotated[
    str | None,
    typer.Option(
        "--device",
        callback=expand_device,
        help="Price merges by what `calibrate` measured on this device, and take the schedules that `tune` "
        "found there; the roofline prior and default schedules without.",
    ),
]
UntilCi = Annotated[
    str | None,
    typer.Option(
        metavar="2%",
        help="Measure until the 95% interval of the median is within this of it; exit 7 where the limits "
        "come first.",
    ),
]
MaxRounds = Annotated[int | None, typer.Option(min=3, help="Stop after so many rounds.")]
MaxSeconds = Annotated[float | None, typer.Option(min=0.001, help="Stop after so many seconds of rounds.")]
SkipPreflight = Annotated[
    bool,
    typer.Option(
        "--skip-preflight",
        help="Measure a device that is hot, low on battery or else unfit; the reading says what was amiss.",
    ),
]
Cluster = Annotated[
    str | None, typer.Option(help="The cluster of processors to run on, by its name in the profile.")
]
Device = Annotated[
    str, typer.Option(callback=expand_device, help="local, or a device from `edgewright devices`.")
]

Wait = Annotated[
    float | None,
    typer.Option(
        "--wait",
        metavar="SECONDS",
        min=0,
        help="How long to wait for a device that is in use, 0 not at all; as long as it takes by default.",
    ),
]


def read_inputs(texts: list[str] | None) -> list[InputSpec]:
    """Read the `--input` options; raises UsageError."""
    from edgewright.models import parse_input  # loads torch, which --help does without

    return [parse_input(text) for text in texts or ()]


def read_tokens(text: str | None) -> tuple[int, ...]:
    """Read `--tokens`; raises UsageError."""
    if text is None:
        return ()
    from edgewright.models.tokens import parse_tokens  # loads torch, which --help does without

    return parse_tokens(text)


def read_list(text: str) -> tuple[str, ...]:
    """Return the names of a comma list."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def read_bytes(text: str | None) -> int | None:
    """Read `--max-bytes`, in decimal units; raises UsageError."""
    match = None if text is None else re.fullmatch(r"(\d+(?:\.\d+)?)\s*(|B|kB|MB|GB)", text.strip())
    if text is None:
        return None
    if match is None or not (size := int(float(match[1]) * UNITS[match[2]])):
        raise UsageError(f"--max-bytes {text!r} is no size: write 40MB, 512kB or a number of bytes")
    return size


def read_percent(text: str | None) -> float | None:
    """Read `--until-ci`, a share in percent; raises UsageError."""
    match = None if text is None else re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text.strip())
    if text is None:
        return None
    if match is None or not 0 < float(match[1]) < 100:
        raise UsageError(f"--until-ci {text!r} is no share of the median: write 2% or 0.5%")
    return float(match[1]) / 100


def read_drop(text: str) -> float:
    """Read `--max-accuracy-drop`, in percent; 0% allows none; raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text.strip())
    if match is None or float(match[1]) > 100:
        raise UsageError(f"--max-accuracy-drop {text!r} is no share: write 1% or 0.5%")
    return float(match[1]) / 100


def read_freeze(texts: list[str] | None) -> dict[str, str]:
    """Read the `--freeze` options; raises UsageError."""
    from edgewright.models.freezing import parse_freeze  # loads torch, which --help does without

    return parse_freeze(texts or ())


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
