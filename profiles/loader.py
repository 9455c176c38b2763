"""Read a device profile from TOML, strictly: an unknown key or a wrong type is an error.

    [device]    name, description, soc, isa, arch, cpu
    [reach]     transport
    [run]       targets, threads, affinity
    [protocol]  the fields of `BenchmarkProtocol`, seconds in names that end with _s
    [expect]    text to compare with the device's fingerprint before measuring
    [bin]       your own executor_runner (executorch) or benchmark_model (litert), relative to the profile

A profile holds no latency. A name stands for `profiles/<name>.toml`; whatever ends with .toml or
holds a path separator is the path of a file.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from compiler.device import BenchmarkProtocol, DeviceProfile
from compiler.errors import UsageError
from compiler.records import Metric

FOLDER = Path(__file__).parent
ARCHITECTURES = ("x86_64", "aarch64")


@dataclass(frozen=True)
class Kind:
    """What a key accepts: the words for a message, and the check."""

    words: str
    accepts: Callable[[Any], bool]


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _list(value: Any, item: Callable[[Any], bool], least: int = 0) -> bool:
    return isinstance(value, list) and len(value) >= least and all(item(v) for v in value)


def _cpus(value: Any) -> bool:
    return _list(value, lambda cpu: _whole(cpu, 0)) and len(set(value)) == len(value)


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


TEXT = Kind("a non-empty string", _text)
TEXTS = Kind("a list of strings", lambda v: _list(v, _text))
SOME_TEXTS = Kind("a list of one or more strings", lambda v: _list(v, _text, 1))
COUNT = Kind("a whole number of at least 1", lambda v: _whole(v, 1))
CPUS = Kind("a list of different CPU numbers", _cpus)
ARCH = Kind(f"one of {', '.join(ARCHITECTURES)}", lambda v: v in ARCHITECTURES)
SECONDS = Kind("a number of seconds, 0 or more", lambda v: _number(v) and v >= 0)
POSITIVE = Kind("a number above 0", lambda v: _number(v) and v > 0)
METRIC = Kind(f"one of {', '.join(Metric)}", lambda v: v in list(Metric))

PROTOCOL: Mapping[str, Kind] = {
    "metric": METRIC,
    "settle_s": SECONDS,
    "warmup_s": SECONDS,
    "warmup_max_s": SECONDS,
    "round_s": POSITIVE,
    "min_rounds": COUNT,
    "max_rounds": COUNT,
    "max_seconds": POSITIVE,
    "target_width": POSITIVE,
    "unstable_width": POSITIVE,
}
TABLES: Mapping[str, Mapping[str, Kind]] = {
    "device": {"name": TEXT, "description": TEXT, "soc": TEXT, "isa": TEXTS, "arch": ARCH, "cpu": TEXT},
    "reach": {"transport": TEXT},
    "run": {"targets": SOME_TEXTS, "threads": COUNT, "affinity": CPUS},
    "protocol": PROTOCOL,
    "expect": {},  # any key, text values
    "bin": {"executorch": TEXT, "litert": TEXT},
}
ORDERED = (
    ("min_rounds", "max_rounds"),
    ("warmup_s", "warmup_max_s"),
    ("target_width", "unstable_width"),
)
REQUIRED = (("device", "name"), ("reach", "transport"), ("run", "targets"), ("run", "threads"))


def list_profiles() -> tuple[str, ...]:
    """Return the names of the profiles that come with edgewright, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load_profile(name_or_path: str | Path) -> DeviceProfile:
    """Return the profile of a name, or of the path of a TOML file.

    Raises UsageError when there is no such profile, or naming the file, the key and what would be
    accepted when the file is not one.
    """
    path = _locate(name_or_path)
    tables = _read(path)
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


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the profile {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error


def _check(path: Path, tables: Mapping[str, Any]) -> None:
    for table, content in tables.items():
        if table not in TABLES:
            _unknown(path, f"[{table}]" if isinstance(content, dict) else table, table, TABLES, "tables")
        if not isinstance(content, dict):
            raise UsageError(f"{path}: {table} must be a table, written [{table}]")
        for key, value in content.items():
            _check_value(path, table, key, value)
    for table, key in REQUIRED:
        if key not in tables.get(table, {}):
            raise UsageError(f"{path}: [{table}] {key} is missing; it must be {TABLES[table][key].words}")
    if "cpu" in tables["device"] and "arch" not in tables["device"]:
        raise UsageError(f"{path}: [device] cpu stands alone; state its arch too, {ARCH.words}")


def _check_value(path: Path, table: str, key: str, value: Any) -> None:
    known = TABLES[table]
    if table != "expect" and key not in known:
        _unknown(path, f"[{table}] {key}", key, known, "keys")
    kind = TEXT if table == "expect" else known[key]
    if not kind.accepts(value):
        raise UsageError(f"{path}: [{table}] {key} must be {kind.words}, not {value!r}")


def _unknown(path: Path, where: str, name: str, known: Mapping[str, Any], what: str) -> NoReturn:
    raise UsageError(
        f"{path}: unknown {where}{_nearest(name, tuple(known))}; accepted {what}: {', '.join(known)}"
    )


def _nearest(name: str, known: tuple[str, ...]) -> str:
    match = get_close_matches(name, known, n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


def _build(path: Path, tables: Mapping[str, Any]) -> DeviceProfile:
    device, run = tables["device"], tables["run"]
    return DeviceProfile(
        name=device["name"],
        description=device.get("description", ""),
        transport=tables["reach"]["transport"],
        targets=tuple(run["targets"]),
        threads=run["threads"],
        affinity=tuple(run.get("affinity", ())),
        soc=device.get("soc"),
        isa=tuple(device.get("isa", ())),
        protocol=_protocol(path, tables.get("protocol", {})),
        expect=dict(tables.get("expect", {})),
        arch=device.get("arch"),
        cpu=device.get("cpu"),
        binaries={target: str(path.parent / name) for target, name in tables.get("bin", {}).items()},
    )


def _protocol(path: Path, table: Mapping[str, Any]) -> BenchmarkProtocol:
    # 1 and 1.0 must give one digest, or equal protocols would be two populations.
    numbers = {f.name for f in fields(BenchmarkProtocol) if f.type == "float"}
    values: dict[str, Any] = {key: float(value) if key in numbers else value for key, value in table.items()}
    if "metric" in values:
        values["metric"] = Metric(values["metric"])
    protocol = BenchmarkProtocol(**values)
    for low, high in ORDERED:
        if getattr(protocol, low) > getattr(protocol, high):
            raise UsageError(
                f"{path}: [protocol] {low} = {getattr(protocol, low)} must not exceed "
                f"{high} = {getattr(protocol, high)}"
            )
    return protocol
