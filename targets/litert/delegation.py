"""What XNNPACK takes of a LiteRT model, read from the interpreter that has delegated it.

The interpreter lists the operations of the file's first subgraph and, behind them, one DELEGATE for
each partition with the tensors it reads and writes. The operations of a partition are those that a
walk from what the DELEGATE writes meets before what it reads. For a signature that is another
subgraph, that one is put first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from compiler.ir.graph import Graph
from targets.litert.origins import origin

DELEGATE = "DELEGATE"
IDENTIFIER = b"TFL3"
_COUNTS = ("delegates", "delegated_ops", "outside_ops")


def delegation(model: bytes, methods: Mapping[str, Graph]) -> dict[str, Any]:
    """Return the operations, what is delegated and what is left outside, in all and for each method.

    `outside` lists each operation left to LiteRT's own kernels with its count, its method, the IR nodes
    and the modules it came from, most frequent first.
    """
    found: dict[str, dict[str, int]] = {}
    outside: list[dict[str, Any]] = []
    operations: Counter[str] = Counter()
    for name, graph in methods.items():
        nodes = _nodes(model if len(methods) == 1 else _first(model, name))
        taken = _taken(nodes)
        plain = [n for n in nodes if n["op_name"] != DELEGATE]
        left = [n for n in plain if n["index"] not in taken]
        operations.update(n["op_name"] for n in plain)
        numbers = (len(nodes) - len(plain), len(taken), len(left))
        found[name] = dict(zip(_COUNTS, numbers, strict=True))
        outside += [{**row, "method": name} for row in _rows(left, graph)]
    totals = {key: sum(m[key] for m in found.values()) for key in _COUNTS}
    outside.sort(key=lambda row: (-row["count"], row["op"]))
    return {**totals, "outside": outside, "methods": found, "operations": dict(operations.most_common())}


def _rows(nodes: Sequence[Mapping[str, Any]], graph: Graph) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for node in nodes:
        op = node["op_name"]
        row = rows.setdefault(op, {"op": op, "count": 0, "nodes": [], "modules": []})
        row["count"] += 1
        name = origin(node["tensor"], graph)
        if name in graph:
            _append(row["nodes"], name)
            _append(row["modules"], graph.node(name).origin)
    return list(rows.values())


def _append(items: list[str], item: str) -> None:
    if item and item not in items:
        items.append(item)


def _nodes(model: bytes) -> list[dict[str, Any]]:
    """Return the operations of the first subgraph, with the name of the first tensor each writes."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    names = {t["index"]: t["name"] for t in interpreter.get_tensor_details()}
    nodes = interpreter._get_ops_details()  # there is no public list
    return [{**n, "tensor": names.get(int(n["outputs"][0]), "") if len(n["outputs"]) else ""} for n in nodes]


def shared_bytes(model: bytes) -> int:
    """Return the bytes of the constants that tensors of several subgraphs share."""
    from ai_edge_litert import schema_py_generated as schema

    tree = schema.ModelT.InitFromPackedBuf(model, 0)
    used = Counter(b for g in tree.subgraphs for b in {t.buffer for t in g.tensors})
    return sum(
        len(tree.buffers[b].data) for b, n in used.items() if n > 1 and tree.buffers[b].data is not None
    )


def _first(model: bytes, method: str) -> bytes:
    """Return the file with the subgraph of a signature in the first place."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    tree = schema.ModelT.InitFromPackedBuf(model, 0)
    by_name = {s.signatureKey.decode(): s.subgraphIndex for s in tree.signatureDefs}
    index = by_name[method]
    tree.subgraphs[0], tree.subgraphs[index] = tree.subgraphs[index], tree.subgraphs[0]
    tree.signatureDefs = []
    builder = flatbuffers.Builder(len(model))
    builder.Finish(tree.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def _taken(nodes: Sequence[Mapping[str, Any]]) -> set[int]:
    """Return the indices of the operations inside a partition."""
    maker = {int(t): n for n in nodes if n["op_name"] != DELEGATE for t in n["outputs"]}
    taken: set[int] = set()
    for node in nodes:
        if node["op_name"] != DELEGATE:
            continue
        read, waiting = {int(t) for t in node["inputs"]}, [int(t) for t in node["outputs"]]
        while waiting:
            tensor = waiting.pop()
            made = maker.get(tensor)
            if made is None or tensor in read or made["index"] in taken:
                continue
            taken.add(made["index"])
            waiting += [int(t) for t in made["inputs"]]
    return taken
