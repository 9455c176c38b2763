"""The graph in the form a runtime without Python objects takes: flat tensors in, flat tensors out."""

from __future__ import annotations

import dataclasses

from compiler.errors import UnsupportedModelError
from compiler.ir.constants import constant_bytes
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Signature


def tensors_only(graph: Graph) -> Graph:
    """Return the graph with those of its results that are tensors: the runtime's file has no others."""
    results = [value for _, value in graph.output.values()]
    if len(results) == len(graph.output.operands):
        return graph
    editor = Editor(graph)
    operands = tuple((f"r{i}", value) for i, value in enumerate(results))
    editor.update(dataclasses.replace(graph.output, operands=operands))
    made = editor.finish()
    made.signature = dataclasses.replace(made.signature, out_spec="")  # it folds all results
    return made


def flat(graph: Graph) -> Graph:
    """Return the graph as a function of its input tensors in order, to its tensors in order."""
    made = tensors_only(graph)
    made = made.copy() if made is graph else made
    made.signature = Signature()
    return made


def refuse_state(graph: Graph, runtime: str) -> None:
    """Raise UnsupportedModelError for a model that keeps a state between calls."""
    if writes := graph.writes():
        raise UnsupportedModelError(
            f"at node {writes[0].name!r}: the model keeps a state between calls, {runtime} does not; "
            f"make the state an input and an output"
        )


def refuse_open_sizes(graph: Graph, converter: str) -> None:
    """Raise UnsupportedModelError for a model with sizes that are known only at run time."""
    for node in graph.inputs():
        if not node.type.static:
            raise UnsupportedModelError(
                f"at input {node.name!r} ({node.type}): a size is known only at run time, {converter} writes "
                f"programs of fixed sizes; export the model with fixed sizes, or leave --dynamic-batch out"
            )


def refuse_large(graph: Graph, limit: int, file: str) -> None:
    """Raise UnsupportedModelError for weights that one file of the runtime cannot hold."""
    if (size := constant_bytes([graph])) > limit:
        raise UnsupportedModelError(
            f"the weights take {size} bytes, {file} holds at most {limit}; split the model"
        )
