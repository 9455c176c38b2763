"""Several calls as one kernel: what a runtime lays out or fuses together is measured together.

Alone, each convolution of a sum pays for bringing its image into the runtime's own layout and back;
in one program the image is brought once. The sum of lone latencies would then favour fewer calls, and
pads and slices of which the runtime makes views. So the candidates of a split are measured whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch

from compiler.cost.kernel import Kernel, TensorSpec, drawn_weight, output_types
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Operand, Value
from compiler.ir.verify import verify

ENTRY = -1


class Composite(Kernel):
    """Calls in order; `reads` holds, for each call, which result each of its data operands is.

    A result is named by the place of its call, the input of all by `ENTRY`, further ones by `ENTRY - 1` and
    so on. The last call's is returned.
    `results` says which output of each call that is, the first by default.
    """

    def __init__(
        self, calls: Sequence[Kernel], reads: Sequence[tuple[int, ...]], results: Sequence[int] = ()
    ) -> None:
        """Keep the calls; ValueError where a call's reads are not as many as its data operands."""
        super().__init__("composite", ())
        object.__setattr__(self, "parts", tuple(calls))
        object.__setattr__(self, "reads", tuple(reads))
        object.__setattr__(self, "results", tuple(results) or (0,) * len(self.parts))
        for call, read in zip(self.parts, self.reads, strict=True):
            if sum(not t.constant for t in call.tensors()) != len(read):
                raise ValueError(f"{call.text} reads {len(read)} results")

    parts: tuple[Kernel, ...]
    reads: tuple[tuple[int, ...], ...]
    results: tuple[int, ...]

    @property
    def calls(self) -> tuple[Kernel, ...]:
        """The calls in order."""
        return self.parts

    @cached_property
    def text(self) -> str:
        """The key of the composite: its calls, each with what it reads behind it."""
        names = [",".join(map(self._name, read)) for read in self.reads]
        return "; ".join(f"{call.text} of {read}" for call, read in zip(self.parts, names, strict=True))

    def _name(self, place: int) -> str:
        if place < 0:
            return f"x{ENTRY - place or ''}"
        return f"%{place}#{self.results[place]}" if self.results[place] else f"%{place}"


def composite_graph(composite: Composite, seed: int = 0) -> Graph:
    """Return a verified graph of the calls, weights drawn as `kernel_graph` draws them."""
    editor, generator = Editor(), torch.Generator().manual_seed(seed)
    results: list[Value] = []
    entries: dict[int, Value] = {}
    for call, read, output in zip(composite.parts, composite.reads, composite.results, strict=True):
        places = iter(read)

        def placed(operand: Operand, places: object = places) -> Operand:
            if isinstance(operand, tuple):
                return tuple(placed(item, places) for item in operand)
            if not isinstance(operand, TensorSpec):
                return operand
            if operand.constant:
                return editor.constant(drawn_weight(operand, generator), "weight")
            place = next(places)  # type: ignore[call-overload]
            if place >= 0:
                return results[place]
            if place not in entries:
                entries[place] = editor.input("x", operand.type)
            return entries[place]

        operands = {key: placed(operand) for key, operand in call.operands}
        made = editor.op(call.op, operands, output_types(call))
        results.append(Value(made.node, output))
    editor.output([results[-1]])
    graph = editor.finish()
    verify(graph)
    return graph
