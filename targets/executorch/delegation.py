"""What the SDK says in its own terms, said again in the user's: delegation and failures.

An FX node of the lowered program remembers the IR node it came from (`meta["custom"]["ir_node"]`),
and an IR node the module of the user's model.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch.export import ExportedProgram

from compiler.ir.graph import Graph
from targets.executorch.kernels import refused

_LIMIT = 300
_COUNTS = ("delegates", "delegated_ops", "outside_ops")


def report(programs: Mapping[str, ExportedProgram], graphs: Mapping[str, Graph]) -> dict[str, Any]:
    """Return `delegates`, `delegated_ops` and `outside_ops` of partitioned methods, in all and for each.

    `outside` lists each op left to a portable kernel with its count, its method, the IR nodes and
    the modules it came from, most frequent first.
    """
    methods: dict[str, dict[str, int]] = {}
    outside: list[dict[str, Any]] = []
    for name, program in programs.items():
        methods[name], rows = _method(program, graphs.get(name))
        outside += [{**row, "method": name} for row in rows]
    totals = {key: sum(m[key] for m in methods.values()) for key in _COUNTS}
    return {**totals, "outside": sorted(outside, key=lambda r: (-r["count"], r["op"])), "methods": methods}


def _method(program: ExportedProgram, graph: Graph | None) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Return the numbers of one method, and its ops outside the delegate."""
    outside: dict[str, dict[str, Any]] = {}
    delegates = delegated = 0
    for node in program.graph_module.graph.nodes:
        if node.op != "call_function" or node.target is operator.getitem:
            continue
        if node.target.__name__ == "executorch_call_delegate":
            delegates += 1
            delegated += _size(program, node)
            continue
        entry = outside.setdefault(_op(node), {"op": _op(node), "count": 0, "nodes": [], "modules": []})
        entry["count"] += 1
        _append(entry["nodes"], origin(node))
        _append(entry["modules"], module(node, graph))
    total = sum(row["count"] for row in outside.values())
    return dict(zip(_COUNTS, (delegates, delegated, total), strict=True)), list(outside.values())


def origin(node: Any) -> str:
    """Return the IR node an FX node came from, or the FX node's own name."""
    custom = node.meta.get("custom") or {}
    return str(custom.get("ir_node", node.name))


def module(node: Any, graph: Graph | None) -> str:
    """Return the module path behind an FX node, '' where unknown."""
    name = origin(node)
    return graph.node(name).origin if graph is not None and name in graph else ""


def blame(error: BaseException, programs: Mapping[str, ExportedProgram], graphs: Mapping[str, Graph]) -> str:
    """Return one short sentence on an SDK error: the node and module, and its message.

    A message that names no node is about a part that the SDK made: the first known gap is named then.
    """
    text = _message(error)
    words = re.findall(r"[a-z][a-z0-9_]*", " ".join(_messages(error)))
    for name, program in programs.items():
        nodes = {n.name: n for n in program.graph.nodes if n.op == "call_function"}
        found = next((nodes[word] for word in words if word in nodes), None)
        if found is not None:
            where = module(found, graphs.get(name))
            inside = f" in module {where!r}" if where else ""
            return f"at node {origin(found)!r}{inside} ({found.target}): {text}"
    gap = next((n for graph in graphs.values() for n in graph.ops() if refused(n)), None)
    if gap is None:
        return text
    inside = f" in module {gap.origin!r}" if gap.origin else ""
    return f"at node {gap.name!r}{inside} ({gap.op}): {text}"


def _messages(error: BaseException) -> Iterator[str]:
    link: BaseException | None = error
    while link is not None:
        yield str(link)
        link = link.__cause__ or link.__context__


def _message(error: BaseException) -> str:
    """Return the innermost error's first words: the outer ones repeat it with a dump of the graph."""
    innermost = error
    while innermost.__cause__ is not None:
        innermost = innermost.__cause__
    text = " ".join(str(innermost).split())
    text = f"{type(innermost).__name__}: {text}" if text else type(innermost).__name__
    return text if len(text) <= _LIMIT else text[:_LIMIT] + "..."


def _op(node: Any) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _size(program: ExportedProgram, node: Any) -> int:
    lowered = getattr(program.graph_module, node.args[0].target)
    nodes = lowered.original_module.graph_module.graph.nodes
    return sum(n.op == "call_function" and n.target is not operator.getitem for n in nodes)


def _append(items: list[str], item: str) -> None:
    if item and item not in items:
        items.append(item)
