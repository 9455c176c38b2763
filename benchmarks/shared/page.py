"""The page of a benchmark in docs/: its title, where it was printed, what it is, its tables."""

from __future__ import annotations

from pathlib import Path


def write(script: str, title: str, about: str, text: str) -> None:
    """Write `docs/<script>.md`; `about` is the script's docstring, from its first paragraph to its usage."""
    from devices import open_device

    machine = dict(open_device("local").fingerprint())
    printed = f"Printed by `python benchmarks/{script}.py`, one thread of {machine['processor']}."
    body = about.split("    python benchmarks", 1)[0].strip()
    document = f"# {title}\n\n{printed}\n\n{body}\n\n{text}\n"
    Path(f"docs/{script}.md").write_text(document, encoding="utf-8")
