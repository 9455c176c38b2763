r"""int8 post-training quantization of chosen operations (PT2E), as a graph of explicit q/dq.

A value :math:`x` becomes :math:`q = \mathrm{clamp}(\mathrm{round}(x/s) + z)` and is read back as
:math:`s (q - z)`; the scale and zero point come from the ranges seen on calibration batches. The
result holds `quantized_decomposed` operations between float operations, and int8 weights with one
scale per output channel; a runtime fuses each dq-op-q into its int8 kernel.

Which patterns can be int8 is the target's knowledge: the quantizer is its own, and this module
knows no runtime. Source: PT2E, `torchao.quantization.pt2e`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch.fx.traceback import preserve_node_meta

from compiler.compress.restore import restore
from compiler.errors import UnsupportedModelError, UsageError
from compiler.export import dynamic_shapes_of, example_inputs, export_graph, fold_inputs
from compiler.frontends.torch_export import import_program
from compiler.ir.graph import Graph, Node

NAMESPACE = "quantized_decomposed."
_FUSED = ("aten.relu.default", "aten.hardtanh.default")
Progress = Callable[[int, int], None]


def quantize_int8(
    graph: Graph,
    selected: Collection[str],
    quantizer: Any,
    batches: Sequence[Sequence[torch.Tensor] | torch.Tensor],
    progress: Progress | None = None,
) -> Graph:
    """Return the graph with the selected operations in int8, calibrated on `batches`.

    Names and origins of the float graph are kept; a node `y` gains `y_q` and `y_dq`, a weight `w`
    becomes `w_int8`, `w_scale` and `w_zero_point`.

    Args:
        graph: the float graph; its batch-norms should be merged first.
        selected: names of the operations that may be int8.
        quantizer: the target's PT2E quantizer for them, `target.quantizer(ir_filter(selected))`.
        batches: each a sequence of flat inputs in `graph.inputs()` order, or one tensor. A batch that holds
            several of the graph's own batches (first dimension a multiple) is split.
        progress: called with (samples done, samples in all) after each sample.

    Raises UnsupportedModelError where nothing selected can be int8, UsageError for batches that do
    not fit the graph's inputs.
    """
    samples = [sample for batch in batches for sample in split(graph, batch)]
    if not samples:
        raise UsageError("calibration needs at least one batch")
    result = with_quantizer(graph, quantizer, samples, progress)
    check_done(quantized_nodes(result), frozenset(selected))
    return result


def with_quantizer(
    graph: Graph, quantizer: Any, samples: Sequence[Sequence[torch.Tensor]], progress: Progress | None = None
) -> Graph:
    """Return the graph as PT2E makes it with a quantizer, under its own names; `samples` fit its inputs."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        module = _quantized(graph, quantizer, samples, progress)
        program = _exported(graph, module).run_decompositions({})
    origins = {n.name: n.meta.get("custom", {}).get("ir_node", "") for n in program.graph.nodes}
    return restore(import_program(program), graph, origins)


def quantized_nodes(graph: Graph) -> frozenset[str]:
    """Return the operations a runtime can run in int8: dq on each operand but the bias, q behind.

    Between the operation and q one activation may stand, which the runtime fuses.
    """
    return frozenset(n.name for n in graph.ops() if not n.op.startswith(NAMESPACE) and is_static(graph, n))


def is_static(graph: Graph, node: Node) -> bool:
    """Tell whether an operation is one of `quantized_nodes`."""
    operands = [value for key, value in node.values() if key != "bias"]
    if not operands or not all(_has_range(graph.producer(v)) for v in operands):
        return False
    users = graph.users(node.name)
    if len(users) == 1 and users[0].op in _FUSED:
        users = graph.users(users[0].name)
    return bool(users) and all(_kind(user) == "quantize" for user in users)


def _has_range(node: Node) -> bool:
    """Tell whether a value is dequantized as int8 kernels take it: by scales that were fixed beforehand."""
    others = (".tensor", "per_token.default", "per_channel_group.default")
    return _kind(node) == "dequantize" and not node.op.endswith(others)


def _kind(node: Node) -> str:
    return node.op.removeprefix(NAMESPACE).split("_", 1)[0] if node.op.startswith(NAMESPACE) else ""


def check_done(done: frozenset[str], selected: frozenset[str]) -> None:
    """Refuse a result in which no selected operation is int8."""
    if not done & selected:
        raise UnsupportedModelError(
            f"none of the {len(selected)} selected operations can be int8: "
            "the target quantizes none of their kinds"
        )


def ir_filter(names: Collection[str]) -> Callable[[Any], bool]:
    """Return a predicate on FX nodes: whether the node came from one of these IR nodes."""
    chosen = frozenset(names)
    return lambda node: (node.meta.get("custom") or {}).get("ir_node") in chosen


def split(graph: Graph, batch: Sequence[torch.Tensor] | torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield the batch in pieces of the graph's own batch size; inputs that fit already go with each."""
    inputs = graph.inputs()
    batch = (batch,) if isinstance(batch, torch.Tensor) else batch
    if len(batch) != len(inputs):
        raise UsageError(f"a calibration batch must hold {len(inputs)} inputs, got {len(batch)}")
    counts = [_pieces(node, tensor) for node, tensor in zip(inputs, batch, strict=True)]
    total = max(counts)
    if any(count not in (1, total) for count in counts):
        raise UsageError(
            f"the inputs of a calibration batch hold {counts} of the graph's batches: give equal numbers"
        )
    parts = [t.chunk(total) if count > 1 else (t,) * total for t, count in zip(batch, counts, strict=True)]
    yield from zip(*parts, strict=True)


def _pieces(node: Node, tensor: torch.Tensor) -> int:
    """Return how many of the graph's batches an input holds."""
    want, have = node.type.shape, tuple(tensor.shape)
    if tensor.dtype != node.type.dtype:
        raise UsageError(f"calibration input {node.name!r} must be {node.type.dtype}, got {tensor.dtype}")
    rest = zip(want[1:], have[1:], strict=False)
    fits = len(want) == len(have) and all(not isinstance(w, int) or w == h for w, h in rest)
    first = want[0] if want else 1
    if fits and (not isinstance(first, int) or not have or have[0] == first):
        return 1
    if fits and isinstance(first, int) and first and have[0] and have[0] % first == 0:
        return have[0] // first
    raise UsageError(
        f"calibration input {node.name!r} must be {node.type} or a multiple of its batch, got {list(have)}"
    )


def _quantized(
    graph: Graph, quantizer: Any, samples: Sequence[Sequence[torch.Tensor]], progress: Progress | None
) -> torch.fx.GraphModule:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    prepared = prepare_pt2e(export_graph(graph).module(), quantizer)
    for done, sample in enumerate(samples, start=1):
        args, kwargs = fold_inputs(graph, sample)
        prepared(*args, **kwargs)
        if progress is not None:
            progress(done, len(samples))
    converted: torch.fx.GraphModule = convert_pt2e(prepared)
    return converted


def _exported(graph: Graph, module: torch.fx.GraphModule) -> Any:
    args, kwargs = fold_inputs(graph, example_inputs(graph))
    with preserve_node_meta():
        shapes = dynamic_shapes_of(graph, args, kwargs)
        return torch.export.export(module, args, kwargs, dynamic_shapes=shapes)
