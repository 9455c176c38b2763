"""What the installed targets cannot run of a model, before any compile starts.

The model is imported and merged; each operation left is asked of each target: does it refuse it, or
only leave it outside its delegate. Capability is data of the target's own: nothing is lowered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compiler.ir.graph import Node
from compiler.target import Target
from edgewright.models import load_model
from edgewright.stages import Progress, prepare, silent
from targets import get_target, list_targets

SCHEMA = "edgewright.support/1"


def support(
    model: Any,
    inputs: Any = None,
    *,
    randomize: int | None = None,
    freeze: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Return what each installed target refuses of a model, or runs outside its delegate, as JSON values.

    `rows` has one for each operation and its reasons: `op`, `nodes`, `modules`, `sources` (file and line of
    the user's code), `refused` and `outside` (target -> reason), `taken_by` (the targets that run it)
    and `help`. `targets` says for each whether it takes the whole model.

    Raises UsageError for an unreadable model, UnsupportedModelError naming the node where it cannot
    be imported at all.
    """
    loaded = load_model(model, inputs, randomize=randomize, freeze=freeze)
    graph = prepare(loaded, progress).graph
    targets = [t for t in map(get_target, list_targets()) if t.installed() is None]
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for node in graph.ops():
        progress(f"ask: {node.name}")
        _note(node, targets, rows)
    found = sorted(rows.values(), key=lambda r: (-len(r["refused"]), -len(r["nodes"]), r["op"]))
    return {
        "schema": SCHEMA,
        "model": loaded.spec,
        "operations": len(list(graph.ops())),
        "targets": {t.name: _whole(t.name, found) for t in targets},
        "rows": found,
    }


def _note(node: Node, targets: Sequence[Target], rows: dict[tuple[Any, ...], dict[str, Any]]) -> None:
    """Add a node to the row of its operation and reasons, if any target has one."""
    refused = {t.name: reason for t in targets if (reason := t.refuses(node))}
    outside = {t.name: reason for t in targets if t.name not in refused and (reason := t.supports(node))}
    if not refused and not outside:
        return
    key = (node.op, tuple(refused.items()), tuple(outside.items()))
    taken = [t.name for t in targets if t.name not in refused]
    row = rows.setdefault(
        key,
        {
            "op": node.op,
            **{name: [] for name in ("nodes", "modules", "sources")},
            "refused": refused,
            "outside": outside,
            "taken_by": taken,
            "help": _help(refused, taken),
        },
    )
    for name, value in (("nodes", node.name), ("modules", node.origin), ("sources", node.source)):
        if value and value not in row[name]:
            row[name].append(value)


def _help(refused: Mapping[str, str], taken: Sequence[str]) -> str:
    if not refused:
        return "nothing needs to be done; another form of the operation may be faster"
    if not taken:
        return (
            "no installed target runs it: write it in other operations, or leave it out of the deployed part"
        )
    return f"compile with --target {' or '.join(taken)}, or write it in other operations"


def _whole(target: str, rows: Sequence[Mapping[str, Any]]) -> str:
    refused = sum(len(r["nodes"]) for r in rows if target in r["refused"])
    outside = sum(len(r["nodes"]) for r in rows if target in r["outside"])
    if refused:
        return f"refuses {refused} operations"
    return f"runs it, {outside} operations outside its delegate" if outside else "runs it"
