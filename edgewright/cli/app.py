"""The commands; each parses, calls the public function, and shows what came back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from compiler.errors import UsageError
from edgewright.cli import options, show, show_average, show_calibration, show_tuning
from edgewright.cli.doctor_command import doctor_command
from edgewright.cli.farm import farm_command
from edgewright.cli.output import emit_json, working
from edgewright.cli.profiles_commands import profiles_app
from edgewright.cli.search import search_command

app = typer.Typer(
    name="edgewright",
    help="Compile, profile and search models for phones and edge boards.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(profiles_app, name="profiles")
app.command("doctor")(doctor_command)


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Compile, profile and search models for phones and edge boards."""


@app.command("compile")
def compile_command(
    model: options.Model,
    profile: options.Profile = "host",
    target: options.AnyTarget = None,
    plan: Annotated[Path | None, typer.Option(help="Replay the decisions of a plan.")] = None,
    inputs: options.Inputs = None,
    out: options.Out = Path("out"),
    calibration: Annotated[
        str | None, typer.Option(metavar="FILE:ATTR", help="Batches for a plan that quantizes.")
    ] = None,
    randomize: options.Randomize = None,
    dynamic_batch: options.DynamicBatch = False,
    freeze: options.Freeze = None,
    argmax_only: options.ArgmaxOnly = False,
    max_fallback: Annotated[
        int | None, typer.Option(help="The most operations that may stay outside the delegate.")
    ] = None,
    tokens: options.Tokens = None,
    max_bytes: options.MaxBytes = None,
    donor: options.Donor = None,
    device: options.PricingDevice = None,
    database: options.Database = None,
    wait: options.Wait = None,
    as_json: options.Json = False,
) -> None:
    """Compile a model, verify it in its own runtime and write an artifact folder."""
    with working("compile") as progress:
        progress("start")
        from edgewright.compilation import compile
        from edgewright.latency import load_table
        from edgewright.tuning import load_schedules

        kept = options.database_url(database)
        artifact = compile(
            model,
            profile,
            target,
            plan,
            options.read_inputs(inputs),
            out,
            calibration=options.read_batches(calibration),
            randomize=randomize,
            dynamic_batch=dynamic_batch,
            freeze=options.read_freeze(freeze),
            argmax_only=argmax_only,
            max_fallback=max_fallback,
            tokens=options.read_tokens(tokens),
            max_bytes=options.read_bytes(max_bytes),
            donor=donor,
            table=(lambda name: load_table(kept, profile, name, device)) if device else None,
            equip=load_schedules(kept, profile, device) if device else None,
            device=device or "local",
            database=kept if target == "auto" else "sqlite://",
            wait_s=wait,
            progress=progress,
        )
    emit_json(artifact.manifest) if as_json else show.artifact(artifact)


@app.command("profile")
def profile_command(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="A folder that `compile` wrote.")],
    device: options.Device = "local",
    profile: Annotated[
        str | None, typer.Option(help="How to run; the profile the artifact was compiled for by default.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="The method of the program to run; its first one by default.")
    ] = None,
    database: options.Database = None,
    allow_unstable: Annotated[
        bool,
        typer.Option(
            "--allow-unstable", help="Show an unsteady reading, marked as such, in place of exit 7."
        ),
    ] = False,
    per_op: Annotated[
        bool, typer.Option("--per-op", help="Time each operation, where the runtime does, by module.")
    ] = False,
    until_ci: options.UntilCi = None,
    max_rounds: options.MaxRounds = None,
    max_seconds: options.MaxSeconds = None,
    cluster: options.Cluster = None,
    skip_preflight: options.SkipPreflight = False,
    wait: options.Wait = None,
    as_json: options.Json = False,
) -> None:
    """Measure an artifact's latency on a device, or that of each operation."""
    if per_op:
        with working("profile") as progress:
            progress("time each operation")
            from edgewright.operations import profile_operations

            found = profile_operations(
                artifact,
                device,
                profile=profile,
                method=method,
                cluster=cluster,
                wait_s=wait,
                progress=progress,
            )
        emit_json(found) if as_json else show.operations(found)
        return
    with working("profile") as progress:
        progress("start")
        from edgewright.artifact import method_entry, read_artifact
        from edgewright.limits import Limits
        from edgewright.profiling import measurement_document, tuned, tuned_kernels
        from edgewright.profiling import profile as run

        built = read_artifact(artifact)
        measurement = run(
            built,
            device,
            profile=profile,
            method=method,
            database=options.database_url(database),
            allow_unstable=allow_unstable,
            limits=Limits(options.read_percent(until_ci), max_rounds, max_seconds),
            cluster=cluster,
            skip_preflight=skip_preflight,
            wait_s=wait,
            progress=progress,
        )
    name = str(method_entry(built, method)["name"])
    document = measurement_document(measurement, str(built.manifest["model"]), name, tuned(built))
    document |= tuned_kernels(built)
    emit_json(document) if as_json else show.measurement(document)


app.command("farm")(farm_command)


@app.command("calibrate")
def calibrate_command(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Models, as `compile` takes them.")],
    profile: options.Profile = "host",
    device: options.Device = "local",
    target: options.Target = None,
    inputs: options.Inputs = None,
    database: options.Database = None,
    randomize: options.Randomize = None,
    allow_unstable: Annotated[
        bool,
        typer.Option("--allow-unstable", help="Go on without kernels that give no steady reading."),
    ] = False,
    wait: options.Wait = None,
    decide: options.Decide = "merge,latency,precision,width",
    max_kernels: Annotated[
        int | None, typer.Option(min=1, help="The most kernels to measure, those that decide most first.")
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(min=0, help="Begin no further kernels after this long.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Measure the kernels that models' open choices need, and fit the cost model to them."""
    with working("calibrate") as progress:
        progress("start")
        from edgewright.calibration import calibrate
        from edgewright.measuring_budget import Budget

        done = calibrate(
            models,
            profile,
            device,
            target,
            options.read_inputs(inputs),
            database=options.database_url(database),
            randomize=randomize,
            allow_unstable=allow_unstable,
            wait_s=wait,
            decide=options.read_list(decide),
            budget=Budget(max_kernels, max_seconds),
            progress=progress,
        )
    emit_json(done.document()) if as_json else show_calibration.calibration(done.document())


@app.command("tune")
def tune_command(
    model: options.Model,
    profile: options.Profile = "host",
    device: options.Device = "local",
    target: Annotated[
        str | None, typer.Option(help="The runtime; the profile's first one that can be tuned by default.")
    ] = None,
    inputs: options.Inputs = None,
    trials: Annotated[int, typer.Option(min=1, help="Schedules to try, over all kernels.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the search; another one looks elsewhere.")] = 0,
    database: options.Database = None,
    randomize: options.Randomize = None,
    wait: options.Wait = None,
    as_json: options.Json = False,
) -> None:
    """Try schedules for a model's kernels on a device; `compile --device` then takes the best."""
    with working("tune") as progress:
        progress("start")
        from edgewright.tuning import tune

        done = tune(
            model,
            profile,
            device,
            target,
            options.read_inputs(inputs),
            trials=trials,
            seed=seed,
            database=options.database_url(database),
            randomize=randomize,
            wait_s=wait,
            progress=progress,
        )
    emit_json(done.document()) if as_json else show_tuning.tuning(done.document())


app.command("search")(search_command)


@app.command("average")
def average_command(
    model: options.Model,
    method: Annotated[str, typer.Option(help="uniform or greedy (soups of checkpoints), or experts.")],
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A state dict, .pt or .safetensors; once an ingredient."),
    ] = None,
    batches: Annotated[
        str | None,
        typer.Option(metavar="FILE:ATTR", help="Batches to gather statistics and measure deviations on."),
    ] = None,
    score: Annotated[
        str | None,
        typer.Option(metavar="FILE:ATTR", help="A callable: module -> held-out score, more is better."),
    ] = None,
    inputs: options.Inputs = None,
    out: options.Out = Path("out"),
    as_json: options.Json = False,
) -> None:
    """Average checkpoints, or parallel experts, into a model that `compile` takes (lossy, measured)."""
    with working("average") as progress:
        progress("start")
        from edgewright.averaging import average, load_score

        made = average(
            model,
            checkpoint or (),
            method,
            options.read_batches(batches),
            None if score is None else load_score(score),
            options.read_inputs(inputs),
            out,
            progress=progress,
        )
    emit_json(made.report) if as_json else show_average.average(made.report, str(made.folder))


@app.command("explain")
def explain_command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|OUT", help="A model, or a folder that `compile` wrote.")
    ],
    inputs: options.Inputs = None,
    randomize: options.Randomize = None,
    freeze: options.Freeze = None,
    argmax_only: options.ArgmaxOnly = False,
    everything: Annotated[
        bool, typer.Option("--all", help="List every region, not the first of each kind.")
    ] = False,
    ask_support: Annotated[
        bool, typer.Option("--support", help="List what the installed targets cannot run, by operation.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Tell what merged, what was refused and why, and at which node; or what no target runs."""
    with working("explain") as progress:
        progress("start")
        from edgewright.explanation import explain
        from edgewright.support import support

        given = options.read_inputs(inputs)
        fixed = options.read_freeze(freeze)
        if ask_support:
            document = support(model, given, randomize=randomize, freeze=fixed, progress=progress)
        else:
            document = explain(
                model, given, randomize=randomize, freeze=fixed, argmax_only=argmax_only, progress=progress
            )
    if as_json:
        emit_json(document)
    elif ask_support:
        show.support(document)
    else:
        show.explanation(document, everything)


@app.command("devices")
def devices_command(
    device: Annotated[
        str | None, typer.Argument(metavar="DEVICE", help="Show one device; or `clean`, then which.")
    ] = None,
    cleaned: Annotated[
        str | None, typer.Argument(metavar="CLEANED", help="With `clean`: the device, local by default.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the devices that can be reached, show one, or `clean` one of what edgewright left there."""
    from devices import expand_spec
    from edgewright.listings import cleaned_document, device_document, devices_document

    if device == "clean":
        document = cleaned_document(expand_spec(cleaned or "local", os.environ))
    elif cleaned is not None:
        raise UsageError(
            f"`devices` takes one device, or `clean` and a device, not {device!r} and {cleaned!r}"
        )
    elif device is None:
        document = devices_document(os.environ)
    else:
        document = device_document(expand_spec(device, os.environ))
    emit_json(document) if as_json else show.devices(document)
