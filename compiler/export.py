"""Graph -> ExportedProgram: what targets consume.

The graph is run node by node under `torch.export`, inside a module whose parameters carry the
graph's own names, so that every name is `[a-z][a-z0-9_]*` and unique. Each FX node remembers the
IR node it came from in `meta["custom"]["ir_node"]`. Symbolic dimensions are declared again, the
call's pytree is restored, and states become mutated buffers.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.export import Dim as ExportDim
from torch.export import ExportedProgram
from torch.fx.traceback import annotate, preserve_node_meta
from torch.utils import _pytree as pytree

from compiler.evaluate import run_node
from compiler.ir.dims import bind, resolve, resolve_operand
from compiler.ir.graph import Graph, Kind, Node, Sym, TensorType


def export_graph(graph: Graph) -> ExportedProgram:
    """Return the graph as an exported program with equal numerics and clean names."""
    module = GraphModule(graph)
    args, kwargs = fold_inputs(graph, example_inputs(graph))
    shapes = dynamic_shapes_of(graph, args, kwargs)
    with warnings.catch_warnings(), torch.no_grad(), preserve_node_meta():
        warnings.simplefilter("ignore")
        return torch.export.export(module, args, kwargs, dynamic_shapes=shapes)


class GraphModule(torch.nn.Module):
    """A graph as a module that takes the original model's own arguments."""

    def __init__(self, graph: Graph) -> None:
        """Register constants as frozen parameters or buffers, states as buffers."""
        super().__init__()
        self.graph = graph
        for name, constant in graph.constants.items():
            assert constant.tensor is not None, f"constant {name!r} has no data"
            state = graph.node(name).kind is Kind.STATE
            if state or not constant.tensor.is_floating_point():
                self.register_buffer(name, constant.tensor.clone() if state else constant.tensor)
            else:
                self.register_parameter(name, torch.nn.Parameter(constant.tensor, requires_grad=False))
        self.forward = _named(self._call, call_names(graph))
        self.eval()

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        graph = self.graph
        leaves = pytree.tree_leaves((args, kwargs)) if graph.signature.leaves else list(args)
        kinds = [kind for kind, _ in graph.signature.leaves] or ["input"] * len(leaves)
        inputs = [leaf for kind, leaf in zip(kinds, leaves, strict=True) if kind == "input"]
        results = self._run(inputs)
        spec = graph.signature.out_spec
        return pytree.tree_unflatten(results, pytree.treespec_loads(spec)) if spec else tuple(results)

    def _run(self, inputs: Sequence[torch.Tensor]) -> list[Any]:
        graph = self.graph
        bindings = bind([n.type for n in graph.inputs()], [t.shape for t in inputs])
        values: dict[Any, Any] = {n.value: t for n, t in zip(graph.inputs(), inputs, strict=True)}
        for node in graph.nodes():
            if node.kind in (Kind.CONSTANT, Kind.STATE):
                values[node.value] = getattr(self, node.name)
            elif node.kind is Kind.OP:
                self._step(node, values, bindings)
        results = [resolve_operand(operand, values, bindings) for _, operand in graph.output.operands]
        for node in graph.writes():
            getattr(self, node.operand("state").node).copy_(values[node.operand("value")])
        return results

    def _step(self, node: Node, values: dict[Any, Any], bindings: Mapping[str, int]) -> None:
        with annotate({"ir_node": node.name}):
            run_node(node, values, bindings)


def call_names(graph: Graph) -> list[str]:
    """Return the names of the call's positional arguments: an input's own where it stands alone."""
    names = [n.name for n in graph.inputs()]
    if not graph.signature.leaves:
        return names
    args, _ = fold_inputs(graph, [_Leaf(name) for name in names])
    return [arg.name if isinstance(arg, _Leaf) else f"arg{i}" for i, arg in enumerate(args)]


class _Leaf:
    """A stand-in for an input while its place in the call is looked up."""

    def __init__(self, name: str) -> None:
        self.name = name


def _named(call: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """Return `call` with positional parameters of these names, which torch.export reads."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    rest = inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)
    forward.__signature__ = inspect.Signature([*parameters, rest])  # type: ignore[attr-defined]
    return forward


def example_inputs(graph: Graph, seed: int = 0) -> list[torch.Tensor]:
    """Return flat seeded inputs: normal floats, zeros for other dtypes; symbols take a small size."""
    generator = torch.Generator().manual_seed(seed)
    sizes = symbol_sizes(graph)
    return [_example(n.type, sizes, generator) for n in graph.inputs()]


def symbol_sizes(graph: Graph) -> dict[str, int]:
    """Return a size for each symbol that torch will not specialise: 2 or more, and distinct."""
    sizes = {}
    for i, (name, (low, high, _)) in enumerate(graph.symbols.items()):
        sizes[name] = min(max(low, 2 + i), high if high is not None else 2**31)
    return sizes


def _example(type_: TensorType, sizes: dict[str, int], generator: torch.Generator) -> torch.Tensor:
    shape = [int(resolve(d, sizes)) for d in type_.shape]
    if type_.dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(type_.dtype)
    return torch.zeros(shape, dtype=type_.dtype)


def fold_inputs(graph: Graph, flat: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return (args, kwargs) of the original call from flat inputs."""
    if not graph.signature.leaves:
        return tuple(flat), {}
    tensors = iter(flat)
    leaves = [next(tensors) if kind == "input" else value for kind, value in graph.signature.leaves]
    args, kwargs = pytree.tree_unflatten(leaves, pytree.treespec_loads(graph.signature.in_spec))
    return tuple(args), dict(kwargs)


def dynamic_shapes_of(graph: Graph, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return `torch.export`'s dynamic_shapes for the original call, None where all is static."""
    if not graph.symbols:
        return None
    # DYNAMIC raises where torch would fix a size, and finds the least size by itself.
    dims = {name: ExportDim.DYNAMIC(max=high) for name, (_, high, _) in graph.symbols.items()}
    shapes = iter([_dynamic_axes(node.type, dims) or None for node in graph.inputs()])
    kinds = [kind for kind, _ in graph.signature.leaves] or ["input"] * len(args)
    leaves = [next(shapes) if kind == "input" else None for kind in kinds]
    spec = pytree.tree_structure((args, kwargs))
    in_args, in_kwargs = pytree.tree_unflatten(leaves, spec)
    return dict(zip(call_names(graph), in_args, strict=True)) | dict(in_kwargs)


def _dynamic_axes(type_: TensorType, dims: dict[str, Any]) -> dict[int, Any]:
    return {i: dims.get(d.text, ExportDim.AUTO) for i, d in enumerate(type_.shape) if isinstance(d, Sym)}
