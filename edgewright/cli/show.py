"""Tables for people, made from the same documents that `--json` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from compiler.records import Artifact
from edgewright.cli.output import emit_table, stdout

SHOWN = 12  # refused or kept regions listed without --all


def artifact(built: Artifact) -> None:
    """Show what a compile wrote and how far it is from the model."""
    m: Mapping[str, Any] = built.manifest
    check, lowering = m["verification"], m["lowering"]
    snr = check["min_snr_db"]
    rows = [
        ("written to", str(built.folder)),
        ("target", f"{m['target']} for profile {m['profile']}{_untuned(lowering)}"),
        *([("frozen", ", ".join(_frozen(f) for f in m["frozen"]))] if m["frozen"] else []),
        *(row for method in m["methods"] for row in _method(method, len(m["methods"]) > 1)),
        ("delegate", f"{lowering.get('delegated_ops')} ops inside, {lowering.get('outside_ops')} outside"),
        ("size", _size(m)),
        ("max error", f"{check['max_abs_error']:.3g} absolute, {check['max_relative_error']:.3g} relative"),
        ("SNR", "no error" if snr is None else f"{snr:.1f} dB at least, over {_sets(check)} sets of inputs"),
        (
            "seconds",
            ", ".join(f"{name} {seconds:.1f}" for name, seconds in m["seconds"].items() if seconds >= 0.05),
        ),
    ]
    emit_table(f"{m['model']}: compiled and verified in {check['runtime']}", ("", ""), rows)
    if "compared" in m:
        lines = [_compared(row) for row in m["compared"]]
        emit_table("targets compared", ("target", "outcome", "median", "95% interval", "reason"), lines)


def _compared(row: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """Return a target's line: its latency, or why it has none."""
    if "median_ns" not in row and "median_count" not in row:
        return str(row["target"]), str(row["outcome"]), "-", "-", str(row["reason"])
    scale, unit = (1e6, "ms") if "median_ns" in row else (1, "instructions")
    median, low, high = (
        next(row[f"{k}_{u}"] for u in ("ns", "count") if f"{k}_{u}" in row) / scale
        for k in ("median", "low", "high")
    )
    state = ("" if row["stable"] else " (NOT STABLE)") + _untuned(row)
    return str(row["target"]), row["outcome"] + state, f"{median:.4g} {unit}", f"{low:.4g} to {high:.4g}", ""


def measurement(document: Mapping[str, Any]) -> None:
    """Show one measurement; times in milliseconds, counts as they are, each percentile with its interval."""
    state = ("" if document["stable"] else " (NOT STABLE)") + _untuned(document)
    shown = ("method", "profile", "metric", "threads", "affinity", "rounds", "samples")
    facts = [(_label(name), _listed(document[name])) for name in shown if document[name] != []]
    marked = ", ".join(f"{document[f'{kind}_rounds']} {kind}" for kind in ("throttled", "noisy"))
    rows = [
        *facts,
        ("rounds left out", marked),
        *((name, _reading(document, name)) for name in ("median", "p90", "p99", "minimum")),
        ("load", _milliseconds(document["load_ns"])),
        ("first run", _milliseconds(document["first_ns"])),
        ("peak memory", _megabytes(document["peak_rss_bytes"])),
        ("size on device", _megabytes(document["size_bytes"])),
        *(("note", text) for text in document["incidents"]),
    ]
    emit_table(f"{document['model']} on {document['device']}{state}", ("", ""), rows)


def _reading(document: Mapping[str, Any], name: str) -> str:
    """Return a percentile with its 95% interval, in milliseconds or as a count."""
    unit, scale, word = ("ns", 1e6, " ms") if "median_ns" in document else ("count", 1.0, "")
    low, high = ("low", "high") if name == "median" else (f"{name}_low", f"{name}_high")
    value = f"{document[f'{name}_{unit}'] / scale:.6g}{word}"
    if name == "minimum":
        return value
    bounds = [document[f"{end}_{unit}"] for end in (low, high)]
    if None in bounds:
        return f"{value} (too few samples for an interval)"
    return f"{value} (95%: {bounds[0] / scale:.6g} to {bounds[1] / scale:.6g})"


def _milliseconds(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.4g} ms" if nanoseconds else "not told"


def _megabytes(size: int | None) -> str:
    return "not told" if size is None else f"{size / 1e6:.2f} MB"


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def operations(document: Mapping[str, Any]) -> None:
    """Show what each operation takes, slowest first."""
    rows = [
        (o["op"], o["name"], o["module"] or "-", _taken(o), f"{100 * o['share']:.1f}%")
        for o in document["operations"]
    ]
    title = (
        f"{document['model']} in {document['target']} on {document['device']}: {len(rows)} operations, "
        f"{document['iterations']} inferences; timing each slows the whole, read the shares"
    )
    emit_table(title, ("kind", "name", "module", "median", "share"), rows)


def _taken(operation: Mapping[str, Any]) -> str:
    """Return what an operation takes: microseconds, or on an emulated board instructions."""
    if "median_ns" in operation:
        return f"{operation['median_ns'] / 1e3:.1f} us"
    return f"{operation['median_instructions']:,.0f} instructions"


def search(document: Mapping[str, Any]) -> None:
    """Show the variants a search tried and the one it chose."""
    for title, rows in document["tables"].items():
        columns = list(rows[0]) if rows else []
        emit_table(title, columns, [[row[c] for c in columns] for row in rows])
    for line in document["summary"]:
        stdout().print(line, highlight=False, markup=False)


def explanation(document: Mapping[str, Any], everything: bool) -> None:
    """Show operation counts, what merged, and what was refused with its reason and node."""
    several = len(document["operations"]) > 1
    for method, counts in document["operations"].items():
        title = f"{document['model']}: operations{f' of {method}' if several else ''}"
        changed = [(o, n["before"], n["after"]) for o, n in counts.items() if everything or _differ(n)]
        emit_table(title, ("operation", "before", "after"), changed)
    attempts: Sequence[Mapping[str, Any]] = document["attempts"]
    merged = [a for a in attempts if a["outcome"] == "merged"]
    rows = [(_site(a, several), *_merged(a)) for a in _first(merged, everything)]
    columns = ("where", "form found", "operations", "M MACs", "MB", "exactness", "residual")
    emit_table(f"merged: {len(merged)} regions{_priced(merged)}", columns, rows)
    _decided(attempts, several, everything)
    for outcome in ("kept", "refused"):
        left = [a for a in attempts if a["outcome"] == outcome]
        reasons = [(_site(a, several), a["node"], _reason(a)) for a in _first(left, everything)]
        emit_table(f"{outcome}: {len(left)} regions", ("where", "node", "reason"), reasons)
    between = Counter(a["reason"] for a in attempts if a["outcome"] == "barrier")
    emit_table("between regions", ("reason", "times"), between.most_common())
    for method, placed in document["placements"].items():
        rows = [
            (p["origin"] or p["node"], p["place"], _bytes(p), p["reason"]) for p in _first(placed, everything)
        ]
        if rows:
            title = f"weights computed from weights{f' of {method}' if several else ''}: {len(placed)}"
            emit_table(title, ("where", "computed at", "MB", "reason"), rows)
    gained = document["gained_macs_by_prior"] / 1e6
    stdout().print(
        f"The merges save {gained:.1f} M multiply-accumulates by the roofline prior.", highlight=False
    )


def support(document: Mapping[str, Any]) -> None:
    """Show what each target makes of a model, and what one of them refuses or leaves outside."""
    title = f"{document['model']}: {document['operations']} operations"
    emit_table(title, ("target", ""), list(document["targets"].items()))
    rows = [
        (
            f"{r['op']} x{len(r['nodes'])}",
            "\n".join((r["modules"] + r["sources"])[:SHOWN]),
            _says(r),
            r["help"],
        )
        for r in document["rows"]
    ]
    if rows:
        emit_table("not taken everywhere", ("operation", "where", "targets", "what would help"), rows)


def _says(row: Mapping[str, Any]) -> str:
    refused = [f"{target} refuses: {reason}" for target, reason in row["refused"].items()]
    outside = [f"{target} outside: {reason}" for target, reason in row["outside"].items()]
    return "\n".join(refused + outside)


def devices(document: Mapping[str, Any]) -> None:
    """Show the list of devices, or one device."""
    if "devices" in document:
        rows = [(d["device"], d.get("problem", "")) for d in document["devices"]]
        emit_table("devices that can be seen", ("device", "problem"), rows)
        return
    if "freed_bytes" in document:
        emit_table(str(document["device"]), ("", ""), [("freed", f"{document['freed_bytes'] / 1e6:.1f} MB")])
        return
    emit_table(
        str(document["device"]), ("", ""), [*_flat(document["fingerprint"]), *_flat(document["state"])]
    )


def profiles(document: Mapping[str, Any]) -> None:
    """Show the list of profiles, or one profile."""
    if "profiles" in document:
        rows = [
            (p["profile"], p["transport"], ", ".join(p["targets"]), p["description"])
            for p in document["profiles"]
        ]
        emit_table("device profiles", ("profile", "transport", "targets", "description"), rows)
        return
    apart = ("schema", "clusters", "sources")
    facts = _flat({key: value for key, value in document.items() if key not in apart})
    emit_table(f"{document['name']}: valid", ("", ""), list(facts))
    if document["clusters"]:
        clusters = [
            (c["name"], c["core"], ", ".join(map(str, c["cpus"])), c["max_mhz"]) for c in document["clusters"]
        ]
        emit_table("clusters", ("name", "core", "CPUs", "MHz at most"), clusters)
    if document["sources"]:
        emit_table("sources", ("of", "read in"), list(document["sources"].items()))


def examination(document: Mapping[str, Any]) -> None:
    """Show what the doctor found, a line a finding, and the next step of those that need one."""
    checks = document["checks"]
    rows: list[tuple[str, str, str]] = []
    for found in checks:
        rows.append((found["status"], found["check"], found["says"]))
        rows += [("", "", f"next: {found['next']}")] if found["next"] else []
    emit_table("doctor", ("", "", ""), rows)
    counts = Counter(c["status"] for c in checks)
    stdout().print(", ".join(f"{counts[name]} {name}" for name in ("pass", "warn", "fail")), highlight=False)


def detected(document: Mapping[str, Any]) -> None:
    """Show where a detected profile went, or the profile itself."""
    if document["file"] is None:
        stdout().print(document["toml"], end="", markup=False, highlight=False, soft_wrap=True)
    else:
        stdout().print(f"{document['profile']}: written to {document['file']}", markup=False, highlight=False)


def _untuned(document: Mapping[str, Any]) -> str:
    """Say that a code generator's schedules are its defaults: its latency is not what it can do."""
    if document.get("tuned") is False:
        return " (untuned)"
    kernels = document.get("tuned_kernels")
    return f" ({kernels['tuned']} of {kernels['of']} kernels tuned)" if kernels else ""


def _tensor(spec: Mapping[str, Any]) -> str:
    return f"{spec['name']} {'x'.join(map(str, spec['shape']))} {spec['dtype']}"


def _frozen(spec: Mapping[str, Any]) -> str:
    return _tensor(spec) if spec["value"] is None else f"{spec['name']} = {spec['value']}"


def _method(method: Mapping[str, Any], named: bool) -> Sequence[tuple[str, str]]:
    head = [("method", str(method["name"]))] if named else []
    return [
        *head,
        ("inputs", ", ".join(_tensor(t) for t in method["inputs"])),
        ("outputs", ", ".join(_tensor(t) for t in method["outputs"])),
        ("operations", f"{_total(method, 'before')} imported, {_total(method, 'after')} lowered"),
        ("merge engine", ", ".join(f"{count} {outcome}" for outcome, count in method["merges"].items())),
        *([("latency", _expected(said))] if (said := method.get("expected_latency")) else []),
    ]


def _expected(said: Mapping[str, Any]) -> str:
    """Say what a method is expected to take, where that is from, or what it is unknown for."""
    scale, field, unit = (1e6, "ns", "ms") if "median_ns" in said else (1.0, "count", "instructions")
    median = said[f"median_{field}"]
    if median is None:
        kinds = ", ".join(said["kernels_unknown"]) or "any of its kernels"
        return f"unknown: {said['device']} has no measurement like {kinds}; `edgewright calibrate` takes them"
    low, high = (said[f"{name}_{field}"] / scale for name in ("low", "high"))
    basis = ""
    if said["kind"] != "measured":
        basis = f" from {said['kernels_measured']} measured and {said['kernels_predicted']} predicted kernels"
    return (
        f"{said['kind']}{basis}: {median / scale:.4g} {unit} ({low:.4g} to {high:.4g}, "
        f"{said['interval_percent']}%) on {said['device']}"
    )


def _size(manifest: Mapping[str, Any]) -> str:
    """Say what the files take, what the methods share of it, and what the bound cost."""
    parts = [f"{sum(manifest['sizes_bytes'].values()) / 1e6:.2f} MB"]
    if shared := manifest["lowering"].get("shared_bytes"):
        parts.append(f"{shared / 1e6:.2f} MB of constants stored once for several methods")
    if manifest["max_bytes"] is not None:
        kept = len(manifest["kept_factored"])
        parts.append(f"{manifest['max_bytes'] / 1e6:.2f} MB allowed, for which {kept} sites stay factored")
    return ", ".join(parts)


def _total(method: Mapping[str, Any], when: str) -> int:
    return sum(count[when] for count in method["operations"].values())


def _differ(count: Mapping[str, int]) -> bool:
    return count["before"] != count["after"]


def _sets(check: Mapping[str, Any]) -> int:
    return len({c["inputs"] for c in check["comparisons"]})


def _site(attempt: Mapping[str, Any], several: bool) -> str:
    site = str(attempt["site"] or attempt["root"])
    return f"{attempt['method']}: {site}" if several else site


def _merged(attempt: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a merged region's form, operations, work and exactness."""
    before, after, residual = attempt["before"], attempt["after"], attempt["residual"]
    work = [f"{before[k] / 1e6:.3g} -> {after[k] / 1e6:.3g}" for k in ("macs", "bytes")]
    certified = "not run" if residual is None else f"{residual:.0e}"
    operations = f"{_ops(before['ops'])} -> {_ops(after['ops'])}"
    return attempt["form"], operations, *work, attempt["exactness"], certified


def _decided(attempts: Sequence[Mapping[str, Any]], several: bool, everything: bool) -> None:
    """Show for each region that measurements decided what its forms were measured to take."""
    decided = [a for a in attempts if a.get("options")]
    rows = [
        (_site(a, several), a["outcome"], "\n".join(_figures(a)), a["priced_by"])
        for a in _first(decided, everything)
    ]
    if rows:
        figures = "forms: sum of their kernels' medians, 95% interval"
        columns = ("where", "outcome", figures, "measured in the")
        emit_table(f"figures that decided: {len(decided)} regions", columns, rows)


def _figures(attempt: Mapping[str, Any]) -> Iterator[str]:
    """Yield what each form of a region was measured to take, the fastest first."""
    unit, scale = ("", 1.0) if ", instructions" in attempt["priced_by"] else (" us", 1e3)
    for option in sorted(attempt["options"], key=lambda o: o["median"]):
        median, low, high = (option[k] / scale for k in ("median", "low", "high"))
        name = option["form"] if option["form"] == "as it stands" else _ops(option["ops"])
        yield f"{name}: {median:.4g}{unit} ({low:.4g} to {high:.4g})"


def _priced(merged: Sequence[Mapping[str, Any]]) -> str:
    """Say what the prices of merged regions rest on."""
    labels = sorted({a["priced_by"] for a in merged if a["priced_by"]})
    return f", priced by {'; '.join(labels)}" if labels else ""


def _bytes(placement: Mapping[str, Any]) -> str:
    """Return what a generator would store, and what its result does."""
    return f"{placement['generator_bytes'] / 1e6:.3g} -> {placement['folded_bytes'] / 1e6:.3g}"


def _reason(attempt: Mapping[str, Any]) -> str:
    """Return why a region stays, with the operations around the node to blame."""
    around = ("; ".join(attempt["window"]),) if attempt["window"] else ()
    return "\n".join((attempt["reason"], *around))


def _ops(names: Sequence[str]) -> str:
    """Say `conv2d 3x3, 4 x batch_norm, 3 x add` for a list of operations."""
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(name if n == 1 else f"{n} x {name}" for name, n in counts.items()) or "nothing"


def _first(attempts: Sequence[Mapping[str, Any]], everything: bool) -> Sequence[Mapping[str, Any]]:
    return attempts if everything else attempts[:SHOWN]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value not in (None, "", (), []):
            yield f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _label(name: str) -> str:
    return {"affinity": "CPUs"}.get(name, name)
