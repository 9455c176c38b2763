"""Artifact folders: written aside, then put in place in one rename.

An artifact either stands complete at the path asked for or does not exist: files are written to a
hidden sibling folder, flushed to disk, and renamed at the end. Whatever ends the work early, an
error, a full disk, an interrupt, removes the sibling and leaves what stood there before untouched.

    manifest.json      schema edgewright.artifact/3: digests, versions, sizes, verification, and for each
                       of "methods" its inputs, outputs, graph digest and merges
    attempts.json      what the merge engine found, did and refused, by method
    graph_METHOD.txt   the graph of a method that was lowered, as text IR
    plan.txt           the decisions it was built by
    *                  the runtime's own files, listed under "files", the program first
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from compiler.errors import UsageError
from compiler.records import Artifact

SCHEMA = "edgewright.artifact/3"
MANIFEST = "manifest.json"
LONGEST = 256  # characters of a file name
FIELDS = {
    **dict.fromkeys(("model", "target", "profile", "plan", "plan_digest", "artifact_digest"), str),
    **dict.fromkeys(("files", "methods"), list),
    **dict.fromkeys(("versions", "lowering", "verification", "sizes_bytes"), dict),
}
METHOD = {
    "name": str,
    "graph_digest": str,
    "operations": dict,
    "placements": list,
    "inputs": list,
    "outputs": list,
}
_UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}
_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextlib.contextmanager
def building(out: Path) -> Iterator[Path]:
    """Yield a folder to write in; it becomes `out` when the block ends without an error.

    Raises UsageError when `out` cannot be written, holds something that is not ours, or the disk
    is full.
    """
    check_replaceable(out)
    with _told(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        work = out.parent / f".{out.name}.edgewright-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            work.mkdir()
            yield work
            _flush(work)
            _swap(work, out)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def check_replaceable(out: Path) -> None:
    """Raise UsageError where `out` exists and is neither empty nor a folder of ours."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out} is a file; give a folder to write the artifact to")
    if any(out.iterdir()) and not is_ours(out):
        raise UsageError(f"{out} holds files that edgewright did not write; give an empty or a new folder")


def is_ours(folder: Path) -> bool:
    """Tell whether a folder's manifest has a schema of ours."""
    try:
        document = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and str(document.get("schema", "")).startswith("edgewright.")


def write_text(path: Path, text: str) -> None:
    """Write a text file of an artifact."""
    path.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write a JSON file of an artifact, readable and stable."""
    write_text(path, json.dumps(document, indent=2, sort_keys=False, allow_nan=False) + "\n")


def read_artifact(folder: str | Path) -> Artifact:
    """Read an artifact folder, or the one inside a search's folder.

    Raises UsageError where it is none or a file of it is missing.
    """
    path = Path(folder)
    if not (path / MANIFEST).exists() and (path / "artifact" / MANIFEST).is_file():
        path = path / "artifact"
    if not path.is_dir():
        raise UsageError(f"there is no artifact folder {path}; make one with `edgewright compile`")
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path} is no artifact: it has no {MANIFEST}") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path / MANIFEST} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise UsageError(f"{path / MANIFEST} is not of schema {SCHEMA!r}")
    if fault := _fault(manifest):
        raise UsageError(f"{path / MANIFEST}: {fault}; compile it again")
    missing = [name for name in manifest["files"] if not (path / name).is_file()]
    if missing:
        raise UsageError(f"{path} is incomplete: {', '.join(missing)} is missing; compile it again")
    return Artifact(path, manifest)


def _fault(manifest: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a manifest's fields, None where all are as they should be."""
    for name, kind in FIELDS.items():
        if not isinstance(manifest.get(name), kind):
            return f"{name!r} is not a {kind.__name__}"
    for entry in manifest["methods"]:
        wrong = [
            n
            for n, kind in METHOD.items()
            if not isinstance(entry, dict) or not isinstance(entry.get(n), kind)
        ]
        if wrong or not entry["name"].isidentifier():
            return f"an entry of 'methods' has no valid {wrong[0] if wrong else 'name'!r}"
    names = manifest["files"]
    if not all(
        isinstance(n, str) and Path(n).name == n and "\x00" not in n and len(n) < LONGEST for n in names
    ):
        return "'files' holds what is no file name"
    return None if manifest["methods"] else "'methods' is empty"


def method_entry(artifact: Artifact, name: str | None = None) -> Mapping[str, Any]:
    """Return what the manifest says of a method, the first one by default.

    Raises UsageError listing the methods where there is none of that name.
    """
    entries: Any = artifact.manifest["methods"]
    found = next((e for e in entries if name in (None, e["name"])), None)
    if found is None:
        known = ", ".join(e["name"] for e in entries)
        raise UsageError(f"{artifact.folder} has no method {name!r}; it has {known}")
    return dict(found)


def files_digest(folder: Path, names: Sequence[str]) -> str:
    """Return a digest of the contents of an artifact's runtime files, 16 hexadecimal digits."""
    total = hashlib.sha256()
    for name in names:
        with (folder / name).open("rb") as file:
            total.update(f"{name}:{hashlib.file_digest(file, 'sha256').hexdigest()};".encode())
    return total.hexdigest()[:16]


@contextlib.contextmanager
def _told(out: Path) -> Iterator[None]:
    """Turn a failure to write into a UsageError that says which; SDKs wrap it in errors of their own."""
    try:
        yield
    except Exception as error:
        if _is_full(error):
            raise UsageError(f"the disk is full: {out} was not written, and nothing is left of it") from error
        if isinstance(error, OSError) and error.errno in _UNWRITABLE:
            raise UsageError(f"cannot write {out}: {error.strerror}") from error
        raise


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _flush(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _swap(work: Path, out: Path) -> None:
    """Put `work` at `out`; what stood there is moved aside first and removed last."""
    old = work.with_name(f"{work.name}-old")
    if out.exists():
        out.rename(old)
    try:
        work.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
