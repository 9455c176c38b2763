"""The PT2E quantizer of litert-torch, limited to chosen nodes.

Activations are affine per tensor, weights symmetric per output channel, as LiteRT's int8 kernels want
them. Its annotators take no filter of nodes and its propagation through operations that share
their input's scale goes wherever the graph goes: an annotation on a node that was not selected is
taken back, so that the node stays in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from targets.quiet import quiet


def quantizer(selected: Callable[[Any], bool]) -> Any:
    """Return a PT2EQuantizer, int8 per channel, that annotates only selected FX operations."""
    with quiet():
        from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
        from litert_torch.quantize.pt2e_quantizer_utils import propagate_annotation

    config = get_symmetric_quantization_config(is_per_channel=True)

    class Selective(PT2EQuantizer):  # type: ignore[misc]
        """PT2EQuantizer that leaves what was not selected alone."""

        def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            """Annotate the selected patterns, then what shares their scale."""
            model = self._annotate_for_static_quantization_config(model)
            self._withdraw(model)
            propagate_annotation(model)
            self._withdraw(model)
            return model

        def _withdraw(self, model: torch.fx.GraphModule) -> None:
            for node in model.graph.nodes:
                if node.op == "call_function" and not selected(node):
                    node.meta.pop("quantization_annotation", None)

    return Selective().set_global(config)
