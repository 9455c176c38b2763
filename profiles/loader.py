"""Read a device profile from TOML, strictly: an unknown key or a wrong type is an error.

`profiles/tables.py` lists the tables and their keys. A profile holds no latency. A name stands for
`profiles/<name>.toml`; whatever ends with .toml or holds a path separator is the path of a file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from compiler.device import BenchmarkProtocol, Cluster, DeviceProfile, Memory
from compiler.errors import UsageError
from compiler.preflight import Level, Preflight
from compiler.records import Metric
from profiles.kinds import ARCH
from profiles.sources import check_sources, flatten
from profiles.tables import ORDERED, TABLES, Table

FOLDER = Path(__file__).parent


def list_profiles() -> tuple[str, ...]:
    """Return the names of the profiles that come with edgewright, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load_profile(name_or_path: str | Path) -> DeviceProfile:
    """Return the profile of a name, or of the path of a TOML file.

    Raises UsageError when there is no such profile, or naming the file, the key and what would be
    accepted when the file is not one.
    """
    path = _locate(name_or_path)
    return parse_profile(_text(path), path)


def parse_profile(text: str, path: Path) -> DeviceProfile:
    """Return the profile that a text states; messages name `path`. Raises UsageError."""
    tables = _read(text, path)
    _check(path, tables)
    return _build(path, tables)


def _locate(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith(".toml") or "/" in text or "\\" in text:
        return Path(name_or_path)
    if text in list_profiles():
        return FOLDER / f"{text}.toml"
    raise UsageError(
        f"there is no profile called {text!r}{_nearest(text, list_profiles())}; "
        f"known: {', '.join(list_profiles())}. The path of a .toml file is accepted too."
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read the profile {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from error


def _read(text: str, path: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    if isinstance(tables.get("source"), dict):
        tables["source"] = flatten(tables["source"])
    return tables


def _check(path: Path, tables: Mapping[str, Any]) -> None:
    for name, content in tables.items():
        if name not in TABLES:
            _unknown(path, f"[{name}]" if isinstance(content, dict) else name, name, TABLES, "tables")
        _check_table(path, name, content, TABLES[name])
    for name, table in TABLES.items():
        if table.required and not table.repeated:
            _require(path, name, tables.get(name, {}), table)
    if "cpu" in tables["device"] and "arch" not in tables["device"]:
        raise UsageError(f"{path}: [device] cpu stands alone; state its arch too, {ARCH.words}")
    _check_clusters(path, tables.get("cluster", []), tables["run"])
    check_sources(path, tables)


def _check_table(path: Path, name: str, content: Any, table: Table) -> None:
    if not table.repeated:
        if not isinstance(content, dict):
            raise UsageError(f"{path}: {name} must be a table, written [{name}]")
        _check_values(path, name, content, table)
        return
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise UsageError(f"{path}: {name} must be tables, each written [[{name}]]")
    for row in content:
        _check_values(path, name, row, table)
        _require(path, name, row, table)


def _check_values(path: Path, name: str, content: Mapping[str, Any], table: Table) -> None:
    for key, value in content.items():
        kind = table.kind(key)
        if kind is None:
            _unknown(path, f"[{name}] {key}", key, table.keys, "keys")
        if not kind.accepts(value):
            raise UsageError(f"{path}: [{name}] {key} must be {kind.words}, not {value!r}")


def _require(path: Path, name: str, content: Mapping[str, Any], table: Table) -> None:
    for key in table.required:
        if key not in content:
            raise UsageError(f"{path}: [{name}] {key} is missing; it must be {table.keys[key].words}")


def _check_clusters(path: Path, clusters: list[Mapping[str, Any]], run: Mapping[str, Any]) -> None:
    names = [cluster["name"] for cluster in clusters]
    if (twice := _repeated(names)) is not None:
        raise UsageError(f"{path}: two clusters are called {twice!r}; give each a name of its own")
    if (cpu := _repeated(cpu for cluster in clusters for cpu in cluster["cpus"])) is not None:
        raise UsageError(f"{path}: CPU {cpu} is in two clusters; it belongs to one")
    if "cluster" not in run:
        return
    if "affinity" in run:
        raise UsageError(f"{path}: [run] states affinity and cluster; both choose the CPUs, keep one")
    if run["cluster"] not in names:
        known = ", ".join(names) or "none, no [[cluster]] is stated"
        raise UsageError(f"{path}: [run] cluster {run['cluster']!r} is no cluster here; known: {known}")


def _repeated(values: Iterable[Any]) -> Any | None:
    seen = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def _unknown(path: Path, where: str, name: str, known: Mapping[str, Any], what: str) -> NoReturn:
    raise UsageError(
        f"{path}: unknown {where}{_nearest(name, tuple(known))}; accepted {what}: {', '.join(known)}"
    )


def _nearest(name: str, known: tuple[str, ...]) -> str:
    match = get_close_matches(name, known, n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


def _build(path: Path, tables: Mapping[str, Any]) -> DeviceProfile:
    device, run = tables["device"], tables["run"]
    clusters = tuple(_cluster(row) for row in tables.get("cluster", []))
    chosen = next((c.cpus for c in clusters if c.name == run.get("cluster")), run.get("affinity", ()))
    return DeviceProfile(
        name=device["name"],
        description=device.get("description", ""),
        transport=tables["reach"]["transport"],
        targets=tuple(run["targets"]),
        threads=run["threads"],
        affinity=tuple(chosen),
        soc=device.get("soc"),
        isa=tuple(device.get("isa", ())),
        protocol=_protocol(path, tables.get("protocol", {})),
        expect=dict(tables.get("expect", {})),
        arch=device.get("arch"),
        cpu=device.get("cpu"),
        clusters=clusters,
        memory=Memory(**tables["memory"]) if tables.get("memory") else None,
        cluster=run.get("cluster"),
        sources=dict(tables.get("source", {})),
        preflight=_preflight(tables.get("preflight", {})),
    )


def _cluster(row: Mapping[str, Any]) -> Cluster:
    mhz = row.get("max_mhz")
    return Cluster(row["name"], tuple(row["cpus"]), row.get("core"), None if mhz is None else float(mhz))


def _preflight(table: Mapping[str, Any]) -> Preflight:
    levels = {f.name for f in fields(Preflight) if f.type == "Level"}
    values: dict[str, Any] = {
        key: Level(value) if key in levels else value for key, value in _floats(Preflight, table)
    }
    if "governors" in values:
        values["governors"] = tuple(values["governors"])
    return Preflight(**values)


def _floats(of: type[Any], table: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    # 1 and 1.0 must give one digest, or equal protocols would be two populations.
    numbers = {f.name for f in fields(of) if str(f.type).startswith("float")}
    return [(key, float(value) if key in numbers else value) for key, value in table.items()]


def _protocol(path: Path, table: Mapping[str, Any]) -> BenchmarkProtocol:
    values = dict(_floats(BenchmarkProtocol, table))
    if "metric" in values:
        values["metric"] = Metric(values["metric"])
    protocol = BenchmarkProtocol(**values)
    for low, high in ORDERED:
        if getattr(protocol, low) > getattr(protocol, high):
            raise UsageError(
                f"{path}: [protocol] {low} = {getattr(protocol, low)} must not exceed "
                f"{high} = {getattr(protocol, high)}"
            )
    if protocol.cool_below_c is not None and protocol.cooldown_max_s == 0:
        raise UsageError(
            f"{path}: [protocol] cool_below_c waits for nothing without cooldown_max_s; state how many "
            f"seconds a round may wait, such as cooldown_max_s = 300"
        )
    return protocol
