"""A graph on disk: `NAME.json` (the text IR with a schema line) beside `NAME.safetensors`.

Both files are written whole and renamed into place, weights first, so that a reader never meets a
graph whose weights are missing. Reading checks every weight against the digest the text states.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from compiler.errors import UsageError
from compiler.ir.graph import Graph
from compiler.ir.text import parse_graph, print_graph
from compiler.ir.verify import verify

SCHEMA = "edgewright.graph/1"


def save_graph(graph: Graph, path: Path) -> None:
    """Write `path` (JSON) and its `.safetensors` sibling."""
    tensors = {
        name: c.tensor.detach().contiguous() for name, c in graph.constants.items() if c.tensor is not None
    }
    shared = {name: tensor.clone() for name, tensor in tensors.items()} if _aliased(tensors) else tensors
    weights = path.with_suffix(".safetensors")
    save_file(shared, _partial(weights))
    os.replace(_partial(weights), weights)
    document = {"schema": SCHEMA, "weights": weights.name, "text": print_graph(graph).splitlines()}
    _partial(path).write_text(json.dumps(document, indent=1))
    os.replace(_partial(path), path)


def load_graph(path: Path) -> Graph:
    """Read a stored graph; raises UsageError when a file is missing, foreign or changed."""
    try:
        document = json.loads(path.read_text())
        if document.get("schema") != SCHEMA:
            raise UsageError(f"{path}: expected schema {SCHEMA!r}, got {document.get('schema')!r}")
        tensors = load_file(path.with_name(document["weights"]))
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: not a stored graph: {error}") from error
    text = "\n".join(document["text"])
    graph, stated = parse_graph(text, tensors), parse_graph(text)
    for name, constant in graph.constants.items():
        if constant.tensor is None or constant != stated.constants[name]:
            raise UsageError(f"{path}: weight {name!r} is missing or not the one the graph was stored with")
    verify(graph)
    return graph


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _aliased(tensors: dict[str, torch.Tensor]) -> bool:
    storages = [t.untyped_storage().data_ptr() for t in tensors.values() if t.numel()]
    return len(set(storages)) != len(storages)
