"""The PT2E quantizer with XNNPACK's int8 semantics, limited to chosen nodes.

Activations are affine per tensor, weights symmetric per output channel. `XNNPACKQuantizer` has a
filter function, but its rule for `cat` ignores it, and its propagation through operations that
share their input's scale (reshape, max_pool, clamp, ...) goes wherever the graph goes. Here an
annotation on a node that was not selected is taken back, so that the node stays in float32.

One pattern is added: a convolution or linear followed by a clamp (relu6). The stock quantizer
rounds twice, before and behind the clamp, on the wide range before it; XNNPACK's kernel clamps
while it stores, so one rounding on the clamped range is both finer and faster.

Dynamic int8 is for what XNNPACK has such kernels of: linears, whose rows are rounded, and two-dimensional
convolutions of one group, before which it writes the choice of scale, the quantize and the dequantize of
the activation. The stock annotators leave out those with a relu behind them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from targets.quiet import quiet

_CLAMP = torch.ops.aten.hardtanh.default
_DYNAMIC = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)
_WEIGHTED = (torch.ops.aten.conv1d.default, torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)


def quantizer(selected: Callable[[Any], bool], dynamic: bool) -> Any:
    """Return an XNNPACKQuantizer, int8 per channel, that annotates only selected FX operations."""
    with quiet():
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer_utils import propagate_annotation
        from torchao.quantization.pt2e.quantizer import QuantizationAnnotation
        from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

        from targets.quantizer import grouped, with_fine_scales

    def chosen(node: Any) -> bool:
        # The SDK asks for weights too, as members of a pattern; they go with their operation.
        return node.op != "call_function" or selected(node)

    config = with_fine_scales(get_symmetric_quantization_config(is_per_channel=True, is_dynamic=dynamic))

    class Selective(XNNPACKQuantizer):  # type: ignore[misc]
        """XNNPACKQuantizer that fuses clamps and leaves what was not selected alone."""

        def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            """Annotate the selected patterns, then what shares their scale."""
            if dynamic:
                return self._annotate_dynamic(model)
            for node in model.graph.nodes:
                if _clamps(node) and chosen(node) and chosen(node.args[0]):
                    self._annotate_clamped(node.args[0], node)
            model = self._annotate_for_quantization_config(model)
            self._withdraw(model)
            propagate_annotation(model)
            self._withdraw(model)
            return model

        def _annotate_dynamic(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            for node in model.graph.nodes:
                if chosen(node) and _is_weighted(node, _DYNAMIC) and not grouped(node):
                    inputs = {node.args[1]: config.weight}
                    if node.target is not torch.ops.aten.linear.default:  # there rows are rounded
                        inputs[node.args[0]] = config.input_activation
                    node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(inputs, _annotated=True)
            return model

        def _annotate_clamped(self, node: Any, clamp: Any) -> None:
            activation, weight, *rest = node.args[:3]
            inputs = {activation: config.input_activation, weight: config.weight}
            inputs |= {bias: config.bias for bias in rest if isinstance(bias, torch.fx.Node)}
            node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(input_qspec_map=inputs, _annotated=True)
            clamp.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
                output_qspec=config.output_activation, _annotated=True
            )

        def _withdraw(self, model: torch.fx.GraphModule) -> None:
            for node in model.graph.nodes:
                if not chosen(node):
                    node.meta.pop(Q_ANNOTATION_KEY, None)

    made = Selective()
    made.set_global(config)
    made.set_filter_function(chosen)
    return made


def _is_weighted(node: Any, kinds: tuple[Any, ...]) -> bool:
    """Tell whether a node is of one of the kinds, with a stored weight."""
    return node.op == "call_function" and node.target in kinds and node.args[1].op == "get_attr"


def _clamps(node: Any) -> bool:
    """Tell whether a node clamps the result of a convolution or linear that nothing else reads."""
    if node.op != "call_function" or node.target is not _CLAMP:
        return False
    source = node.args[0]
    return source.op == "call_function" and source.target in _WEIGHTED and len(source.users) == 1
