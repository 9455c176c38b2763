"""What the exporter and the runtime say in their own terms, said again in the user's.

The exporter writes the FX node it failed at as `%name`, the runtime the ONNX node as `'node_name'`. Both
stand for a node of the exported program, which remembers the IR node it came from, and that its
module. A node that the exporter made itself, while it decomposed, stands for none; the first
node with a known gap is named then.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from torch.export import ExportedProgram

from compiler.errors import UnsupportedModelError
from compiler.ir.graph import Graph, Node
from targets.onnxruntime.capability import unsupported

_LIMIT = 300
_NAME = re.compile(r"%([a-z][a-z0-9_]*)|'node_([a-z][a-z0-9_]*)'")


@contextlib.contextmanager
def as_unsupported(program: ExportedProgram, graph: Graph, doing: str) -> Iterator[None]:
    """Turn whatever the SDK raises into one short error that names the node."""
    try:
        yield
    except Exception as error:  # the exporter and the runtime share no base class
        messages = [str(link) for link in _chain(error)]
        node = _named(" ".join(messages), program, graph) or _with_gap(graph)
        text = " ".join(messages[-1].split()) or type(error).__name__
        text = text if len(text) <= _LIMIT else text[:_LIMIT] + "..."
        raise UnsupportedModelError(
            f"ONNX Runtime's target failed while {doing}{_place(node)}: {text}"
        ) from error


def _named(message: str, program: ExportedProgram, graph: Graph) -> Node | None:
    """Return the node behind the first name in a message; those that follow are its inputs."""
    found = _NAME.search(message)
    if found is None:
        return None
    name = found[1] or found[2]
    custom = next((n.meta.get("custom") or {} for n in program.graph.nodes if n.name == name), {})
    origin = str(custom.get("ir_node", ""))
    return graph.node(origin) if origin in graph else None


def _with_gap(graph: Graph) -> Node | None:
    return next((node for node in graph.ops() if unsupported(node)), None)


def _place(node: Node | None) -> str:
    if node is None:
        return ""
    return f", at node {node.name!r}{f' in module {node.origin!r}' if node.origin else ''} ({node.op})"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes; the innermost says what really happened."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__
