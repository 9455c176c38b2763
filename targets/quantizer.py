"""Our own PT2E quantizer, for runtimes whose SDK brings none: int8 of selected nodes, nothing else.

Activations are affine uint8 per tensor, weights symmetric int8 per output channel, in [-127, 127]. It is
the pair that ONNX Runtime's kernels read as it is on every processor: on x86 the instructions multiply
unsigned by signed bytes, on Arm its kernels take either sign of activations. With int8 activations the
runtime has to make them unsigned on x86 when it loads a model; it does not where a value has several
readers (1.32), so that sums and concatenations there fall back to float. The 16-bit sums of x86
without VNNI saturate for this pair: the runner asks for the runtime's exact kernels there.

An operation with an int8 kernel is annotated together with the clamp behind it that alone reads it
(relu, relu6): one rounding, on the range behind the clamp. What only moves values, or picks among
them, takes the scale of what it reads, so that it runs on the stored bytes. A concatenation does not:
its parts keep their own scales, which the kernel translates by a table, and a relu before it stays
part of its convolution.

Dynamic int8 has the same codes, with the range of a linear layer's whole input read as it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torchao.quantization.pt2e.observer import (
    HistogramObserver,
    PerChannelMinMaxObserver,
    PlaceholderObserver,
)
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
)
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

aten = torch.ops.aten
LEAST_SCALE = 2.0**-24  # what an observer gives a tensor of zeros

ACTIVATION = QuantizationSpec(
    dtype=torch.uint8,
    quant_min=0,
    quant_max=255,
    qscheme=torch.per_tensor_affine,
    observer_or_fake_quant_ctr=HistogramObserver.with_args(eps=LEAST_SCALE),
)
WEIGHT = QuantizationSpec(
    dtype=torch.int8,
    quant_min=-127,
    quant_max=127,
    qscheme=torch.per_channel_symmetric,
    ch_axis=0,
    observer_or_fake_quant_ctr=PerChannelMinMaxObserver.with_args(eps=LEAST_SCALE),
)


DYNAMIC = QuantizationSpec(
    dtype=torch.uint8,
    quant_min=0,
    quant_max=255,
    qscheme=torch.per_tensor_affine,
    is_dynamic=True,
    observer_or_fake_quant_ctr=PlaceholderObserver.with_args(eps=LEAST_SCALE),
)

WEIGHTED = frozenset(
    {
        aten.linear.default,
        *(getattr(getattr(aten, f"conv{n}d"), variant) for n in (1, 2) for variant in ("default", "padding")),
    }
)
CLAMPS = frozenset({aten.relu.default, aten.hardtanh.default})
BINARY = frozenset({aten.add.Tensor, aten.mul.Tensor})
SHARING = CLAMPS | {
    aten.max_pool2d.default,
    aten.reshape.default,
    aten.view.default,
    aten.flatten.using_ints,
    aten.permute.default,
    aten.transpose.int,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.slice.Tensor,
    aten.clone.default,
}


class SelectiveQuantizer(Quantizer):  # type: ignore[misc]
    """Annotates the operations for which `selected` holds."""

    def __init__(self, selected: Callable[[Any], bool], dynamic: bool = False) -> None:
        """Take the predicate on FX nodes, and whether ranges of activations are read as they run."""
        super().__init__()
        self.selected, self.dynamic = selected, dynamic

    def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
        """Annotate each selected pattern, then what shares its input's scale."""
        nodes = [n for n in model.graph.nodes if n.op == "call_function" and self.selected(n)]
        if self.dynamic:
            for node in nodes:
                if node.target is aten.linear.default and (inputs := quantized_inputs(node)) is not None:
                    mark(node, inputs | {node.args[0]: DYNAMIC}, None)
            return model
        for node in nodes:
            if (inputs := quantized_inputs(node)) is not None:
                self._mark(node, inputs)
        for node in nodes:
            share(node)
        return model

    def validate(self, model: torch.fx.GraphModule) -> None:
        """Accept all annotations: they are our own."""

    def _mark(self, node: Any, inputs: dict[Any, Any]) -> None:
        clamp = only_reader(node)
        if clamp is None or clamp.target not in CLAMPS or not self.selected(clamp):
            mark(node, inputs, ACTIVATION)
            return
        mark(node, inputs, None)
        mark(clamp, {}, ACTIVATION)


def with_fine_scales(config: Any) -> Any:
    """Return an SDK's configuration without its least scale of weights, 2^-12: small weights need less."""
    observer = PerChannelMinMaxObserver.with_args(eps=LEAST_SCALE)
    return replace(config, weight=replace(config.weight, observer_or_fake_quant_ctr=observer))


def mark(node: Any, inputs: dict[Any, Any], output: Any) -> None:
    """Write the annotation of a node."""
    node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
        input_qspec_map=inputs, output_qspec=output, _annotated=True
    )


def annotate_join(node: Any, activation: QuantizationSpec) -> None:
    """Annotate a sum or a product, and a concatenation with one scale for its parts and its result."""
    inputs = quantized_inputs(node)
    if inputs is None or node.target not in BINARY | {aten.cat.default}:
        return
    if node.target in BINARY:
        mark(node, dict.fromkeys(inputs, activation), activation)
        return
    first, *rest = inputs
    shared = SharedQuantizationSpec((first, node))
    mark(node, dict.fromkeys(rest, shared) | {first: activation}, shared)


def quantized_inputs(node: Any) -> dict[Any, Any] | None:
    """Return how the inputs of an operation with an int8 kernel are quantized, None where it has none."""
    target, args = node.target, node.args
    if target in WEIGHTED:
        plain = args[1].op == "get_attr" and all(map(is_float, args[:2]))
        return {args[0]: ACTIVATION, args[1]: WEIGHT} if plain else None
    if target in BINARY:
        plain = all(map(is_float, args[:2])) and node.kwargs.get("alpha", 1) == 1
        return dict.fromkeys(args[:2], ACTIVATION) if plain else None
    if target is aten.cat.default:
        return dict.fromkeys(args[0], ACTIVATION) if all(map(is_float, args[0])) else None
    return {args[0]: ACTIVATION} if averages(node) and is_float(args[0]) else None


def grouped(node: Any) -> bool:
    """Tell whether a node is a convolution with several groups."""
    if node.op != "call_function" or node.target not in WEIGHTED or node.target is aten.linear.default:
        return False
    return bool(node.args[6] != 1 if len(node.args) > 6 else node.kwargs.get("groups", 1) != 1)


def averages(node: Any) -> bool:
    """Tell whether a node is a pooling by averages, or a mean over all positions of each channel."""
    if node.target is aten.adaptive_avg_pool2d.default:
        return set(node.args[1]) == {1}
    if node.target is aten.mean.dim and node.kwargs.get("dtype") is None:
        rank = len(node.args[0].meta["val"].shape)
        return rank > 2 and sorted(d % rank for d in node.args[1] or ()) == list(range(2, rank))
    return node.target is aten.avg_pool2d.default


def share(node: Any) -> None:
    """Let an operation that only moves values take the scale of what it reads, where that has one."""
    if node.target not in SHARING or Q_ANNOTATION_KEY in node.meta or not is_float(node):
        return
    source = node.args[0]
    found = source.meta.get(Q_ANNOTATION_KEY)
    if found is not None and found.output_qspec is not None:
        spec = SharedQuantizationSpec(source)
        mark(node, {source: spec}, spec)


def is_float(value: Any) -> bool:
    """Tell whether an argument is a float32 tensor."""
    tensor = value.meta.get("val") if isinstance(value, torch.fx.Node) else None
    if isinstance(value, torch.fx.Node) and value.op == "get_attr":
        tensor = stored(value)
    return isinstance(tensor, torch.Tensor) and tensor.dtype is torch.float32


def stored(node: Any) -> Any:
    """Return the tensor that a get_attr node reads."""
    found = node.graph.owning_module
    for part in node.target.split("."):
        found = getattr(found, part)
    return found


def only_reader(node: Any) -> Any:
    """Return the one node that reads a value, None where there are several."""
    return next(iter(node.users)) if len(node.users) == 1 else None
