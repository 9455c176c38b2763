"""The PT2E quantizer of litert-torch, limited to chosen nodes.

Activations are affine per tensor, weights symmetric per output channel, as LiteRT's int8 kernels want
them. Its annotators take no filter of nodes and its propagation through operations that share
their input's scale goes wherever the graph goes: an annotation on a node that was not selected is
taken back, so that the node stays in float32. They know sums, products and concatenations by metadata
that an exported graph does not always have; those are annotated here.

Static int8 reads ranges from calibration batches. Dynamic int8 stores weights in int8 and leaves the
activations to the kernel, which reads their range as it runs, a row at a time in a linear layer; XNNPACK
has no such kernel of grouped convolutions, which stay float. For both, ai-edge-quantizer has recipes that
work on the finished file (`static_wi8_ai8`, `dynamic_wi8_afp32`): on a convolutional net and on a
transformer the static one was far less exact, for it quantizes layer norms and attention too, and the
dynamic one gave the same kernels. PT2E is kept for both; it also knows the nodes of a plan.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from targets.quiet import quiet


def quantizer(selected: Callable[[Any], bool], dynamic: bool) -> Any:
    """Return a PT2EQuantizer, int8 per channel, that annotates only selected FX operations."""
    with quiet():
        from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
        from litert_torch.quantize.pt2e_quantizer_utils import propagate_annotation

        from targets.quantizer import annotate_join, grouped, with_fine_scales

    config = with_fine_scales(get_symmetric_quantization_config(is_per_channel=True, is_dynamic=dynamic))

    class Selective(PT2EQuantizer):  # type: ignore[misc]
        """PT2EQuantizer that leaves what was not selected alone."""

        def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            """Annotate the selected patterns, then what shares their scale."""
            if dynamic:
                model = self._annotate_for_dynamic_quantization_config(model)
                self._withdraw(model, grouped)
            else:
                model = self._annotate_for_static_quantization_config(model)
                self._annotate_joins(model)
            self._withdraw(model)
            propagate_annotation(model)
            self._withdraw(model)
            return model

        def _annotate_joins(self, model: torch.fx.GraphModule) -> None:
            for node in model.graph.nodes:
                if node.op == "call_function" and "quantization_annotation" not in node.meta:
                    annotate_join(node, config.input_activation)

        def _withdraw(
            self, model: torch.fx.GraphModule, also: Callable[[Any], bool] = lambda _: False
        ) -> None:
            for node in model.graph.nodes:
                if node.op == "call_function" and (also(node) or not selected(node)):
                    node.meta.pop("quantization_annotation", None)

    return Selective().set_global(config)
