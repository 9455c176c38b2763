r"""Each row of an activation rounded to int8 by its own range as it runs, written into the graph.

    :math:`s_r = (\max_j(x_{rj}, 0) - \min_j(x_{rj}, 0)) / 255, \qquad
    \hat x_{rj} = s_r (\mathrm{clamp}(\mathrm{round}(x_{rj} / s_r) + z_r) - z_r)`

with z_r the code of zero: what XNNPACK's kernels of linear layers with integer weights and a float input
(qd8) do before they multiply.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from compiler.compress.quantize import NAMESPACE
from compiler.ir.edit import Editor
from compiler.ir.graph import Node, TensorType, Value

ROWS = f"{NAMESPACE}%s_per_token%s.default"
_LOW, _HIGH = -128, 127


@dataclass
class RowRounding:
    """Writes the rounding of values in an edited graph, once for all readers of a value."""

    editor: Editor
    _written: dict[Value, Value] = field(default_factory=dict)

    def of(self, value: Value, reader: Node) -> Value:
        """Return a value with its rows rounded; what is written stands in front of its first reader."""
        if value not in self._written:
            self._written[value] = self._write(value, reader)
        return self._written[value]

    def _write(self, value: Value, reader: Node) -> Value:
        editor, type_, name = self.editor, self.editor.graph.type_of(value), value.node
        place = (reader.origin, reader.source, reader.name)
        lead = (*type_.shape[:-1], 1)
        ranges = (TensorType(lead, torch.float64), TensorType(lead, torch.int64))
        chosen = {"input": value, "dtype": torch.int8}
        scale = editor.op(ROWS % ("choose_qparams", "_asymmetric"), chosen, ranges, f"{name}_range", *place)
        by = {"scales": scale, "zero_points": Value(scale.node, 1), "quant_min": _LOW, "quant_max": _HIGH}
        by["dtype"] = torch.int8
        codes = (TensorType(type_.shape, torch.int8),)
        stored = editor.op(ROWS % ("quantize", ""), {"input": value, **by}, codes, f"{name}_q", *place)
        back = {"input": stored, **by, "output_dtype": type_.dtype}
        return editor.op(ROWS % ("dequantize", ""), back, (type_,), f"{name}_dq", *place)
