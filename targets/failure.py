"""What an SDK says in its own terms, said again in the user's.

An exporter writes the FX node it failed at as `%name`, ONNX Runtime its node as `'node_name'`. Both
stand for a node of the exported program, which remembers the IR node it came from, and that its
module. A message that names an operation alone stands for the first of its kind; a node that the
SDK made itself, while it decomposed, stands for none, and the first node with a known gap is
named then.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

from torch.export import ExportedProgram

from compiler.errors import UnsupportedModelError
from compiler.ir.graph import Graph, Node

_LIMIT = 300
_NAME = re.compile(r"%([a-z][a-z0-9_]*)|'node_([a-z][a-z0-9_]*)'")
_OP = re.compile(r"aten[.:]+([a-z_0-9]+)")

Gap = Callable[[Node], str | None]


@contextlib.contextmanager
def as_unsupported(
    runtime: str, doing: str, graph: Graph, program: ExportedProgram | None, gap: Gap
) -> Iterator[None]:
    """Turn whatever the SDK raises into one short error that names the node; `gap` knows the known ones."""
    try:
        yield
    except Exception as error:  # the SDKs share no base class
        messages = [str(link) for link in _chain(error)]
        text = " ".join(messages)
        node = _named(text, program, graph) or _of_kind(text, graph)
        node = node or next((n for n in graph.ops() if gap(n)), None)
        short = " ".join(messages[-1].split()) or type(error).__name__
        short = short if len(short) <= _LIMIT else short[:_LIMIT] + "..."
        raise UnsupportedModelError(
            f"{runtime}'s target failed while {doing}{_place(node)}: {short}{_open(graph)}"
        ) from error


def _named(message: str, program: ExportedProgram | None, graph: Graph) -> Node | None:
    """Return the node behind the first name in a message; those that follow are its inputs."""
    found = _NAME.search(message)
    if found is None or program is None:
        return None
    name = found[1] or found[2]
    custom = next((n.meta.get("custom") or {} for n in program.graph.nodes if n.name == name), {})
    origin = str(custom.get("ir_node", ""))
    return graph.node(origin) if origin in graph else None


def _of_kind(message: str, graph: Graph) -> Node | None:
    """Return the first node of the first operation that a message names and the graph holds."""
    for name in _OP.findall(message):
        node = next((n for n in graph.ops() if n.op.split(".")[1] == name), None)
        if node is not None:
            return node
    return None


def _place(node: Node | None) -> str:
    if node is None:
        return ""
    return f", at node {node.name!r}{f' in module {node.origin!r}' if node.origin else ''} ({node.op})"


def _open(graph: Graph) -> str:
    if not graph.symbols:
        return ""
    return f" (sizes {', '.join(graph.symbols)} are open: exported with fixed sizes, the model may be taken)"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes; the innermost says what really happened."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__
