"""An append-only record of finished work, so that an interrupted search goes on where it stopped.

One JSON document a line. The first line is the identity: the schema and the digests of all that the
results depend on; a journal of another identity is set aside, never mixed. Each further line is a
key (a list of texts) and its value, flushed to disk before the work counts as done. A last line
that was cut off by a crash is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from compiler.errors import UsageError

SCHEMA = "edgewright.search.journal/1"
Key = tuple[str, ...]
T = TypeVar("T")


class Journal:
    """Finished results by key, on disk."""

    def __init__(self, path: Path, identity: Mapping[str, str], resume: bool = True) -> None:
        """Open or start the journal at `path`.

        Without `resume`, or where the identity differs, it starts empty. Raises UsageError where
        the file cannot be read or written.
        """
        self.path = path
        self._head = {"schema": SCHEMA, "identity": dict(identity)}
        self._values: dict[Key, Any] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = _read(path) if resume and path.exists() else []
            if kept and kept[0] == self._head:
                self._values = {tuple(line["key"]): line["value"] for line in kept[1:]}
            self._rewrite()
        except OSError as error:
            raise UsageError(f"cannot keep the search's journal at {path}: {error.strerror}") from error

    def __len__(self) -> int:
        """Return the number of finished results."""
        return len(self._values)

    def get(self, *key: str) -> Any:
        """Return the value of a key, None where it is not done."""
        return self._values.get(key)

    def put(self, value: Any, *key: str) -> None:
        """Record a finished result; it survives whatever happens next."""
        self._values[key] = value
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "value": value}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def once(self, make: Callable[[], Any], *key: str) -> Any:
        """Return the value of a key, made and recorded where it is not done."""
        if key not in self._values:
            self.put(make(), *key)
        return self._values[key]

    def _rewrite(self) -> None:
        """Write what was read back, so that a line cut off by a crash is gone before the next append."""
        lines = [self._head, *({"key": list(k), "value": v} for k, v in self._values.items())]
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        os.replace(partial, self.path)


def _read(path: Path) -> list[Any]:
    documents = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            documents.append(json.loads(line))
        except ValueError:
            break  # cut off by a crash: what follows was never finished
    return documents
