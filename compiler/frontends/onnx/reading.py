"""Read an ONNX file: the model whole, its weights with it, nothing outside its folder.

Weights may lie in files beside the model. Their names come from the model, so that each is checked to
stay in the model's folder before it is opened.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compiler.errors import UnsupportedModelError, UsageError
from compiler.frontends.onnx.dtypes import torch_dtype

OLDEST = 11


@dataclass(frozen=True)
class OnnxInput:
    """An input of a graph: sizes as integers, or names where the model leaves them open."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        """Return `x=batchx3x224x224:float32`."""
        sizes = "x".join(map(str, self.shape)) or "scalar"
        return f"{self.name}={sizes}:{str(self.dtype).removeprefix('torch.')}"


def read(path: str | Path) -> Any:
    """Return a checked `onnx.ModelProto`, weights inside, local functions written out.

    Raises UsageError for what is no ONNX model, is older than opset 11 or newer than the installed
    onnx package, or names a file outside its folder.
    """
    onnx = _onnx()
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own errors
        raise UsageError(f"{path} is not an ONNX model: {_first_line(error)}") from error
    _check_opset(model, path)
    for tensor in itertools.chain(_tensors(model.graph), *map(_of_nodes, model.functions)):
        _check_place(tensor, path)
    if model.graph.sparse_initializer:
        raise UsageError(f"{path} has sparse weights; accepted: dense ones")
    try:
        onnx.checker.check_model(str(path))  # by its path: in memory it would be bounded by 2 GiB
        model = onnx.inliner.inline_local_functions(model)
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
        return model
    except Exception as error:  # the checker's and the reader's own errors
        raise UsageError(f"{path} is not a valid ONNX model: {_first_line(error)}") from error


def inputs_of(model: Any) -> list[OnnxInput]:
    """Return the inputs that have no initialiser; raises UnsupportedModelError for one that is no tensor."""
    stored = {t.name for t in model.graph.initializer}
    return [_input(i) for i in model.graph.input if i.name not in stored]


def _input(info: Any) -> OnnxInput:
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        raise UnsupportedModelError(
            f"the input {info.name!r} is a {kind}, and no runtime here takes other than tensors"
        )
    dims = info.type.tensor_type.shape.dim
    shape = tuple(
        d.dim_value if d.WhichOneof("value") == "dim_value" and d.dim_value >= 0 else (d.dim_param or f"d{i}")
        for i, d in enumerate(dims)
    )
    return OnnxInput(info.name, torch_dtype(info.type.tensor_type.elem_type), shape)


def _onnx() -> Any:
    try:
        import onnx
        import onnx.checker
        import onnx.external_data_helper
        import onnx.inliner
    except ImportError as error:
        raise UsageError(
            "reading ONNX files needs the onnx package: pip install 'edgewright[onnx]'"
        ) from error
    return onnx


def _check_opset(model: Any, path: Path) -> None:
    onnx = _onnx()
    newest = onnx.defs.onnx_opset_version()
    found = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), None)
    if found is None and not model.graph.node:
        raise UsageError(f"{path} is not an ONNX model: it names no operator set and has no nodes")
    if found is not None and not OLDEST <= found <= newest:
        raise UsageError(
            f"{path} is of opset {found}; accepted: {OLDEST} to {newest} (onnx {onnx.__version__})"
        )


def _tensors(graph: Any) -> Iterator[Any]:
    """Yield all stored tensors of a graph, of its nodes and of the graphs inside them."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph)


def _of_nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.initializer:
                    yield from _tensors(inner)


def _check_place(tensor: Any, path: Path) -> None:
    """Refuse a weight whose file is not in the model's folder."""
    places = [entry.value for entry in tensor.external_data if entry.key == "location"]
    folder = path.parent.resolve()
    for place in places:
        try:
            file = (folder / place).resolve()
            there = file.is_file()
        except (OSError, ValueError) as error:  # too long a name, or one with a zero byte
            raise UsageError(
                f"{path}: the weight {tensor.name!r} is said to lie in {place[:40]!r}, which names no file: "
                f"{_first_line(error)[:80]}"
            ) from error
        if Path(place).is_absolute() or not file.is_relative_to(folder):
            raise UsageError(
                f"{path}: the weight {tensor.name!r} is said to lie in {place!r}, outside the model's "
                "folder; accepted: a file beside the model"
            )
        if not there:
            raise UsageError(
                f"{path}: the file {place!r} of the weight {tensor.name!r} is not beside the model"
            )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
