"""One call in a precision: what a runtime takes for it between floats, its conversions included.

Its program is the float kernel's with the target's own quantizer run over it, so the input is quantised
and the output dequantised in it (`int8`), the activation's range read as it runs (`int8_dynamic`, `int4`),
or both are cast (`float16`). In a model whose neighbours are in it too, those conversions fall away: a
float kernel that loses against this one loses in a model by more.
"""

from __future__ import annotations

from functools import cached_property

from compiler.cost.kernel import Kernel, parse_kernel
from compiler.errors import UsageError
from compiler.target import FLOAT16, INT4, INT8, INT8_DYNAMIC

PRECISIONS = (INT8, INT8_DYNAMIC, INT4, FLOAT16)


class Quantized(Kernel):
    """A call in a precision; its text is `int8: aten.conv2d.default(...)`."""

    of: Kernel
    precision: str

    def __init__(self, of: Kernel, precision: str) -> None:
        """Keep both; ValueError for a precision that is none."""
        if precision not in PRECISIONS:
            raise ValueError(f"{precision!r} is no precision of a kernel: {', '.join(PRECISIONS)}")
        super().__init__(of.op, of.operands)
        object.__setattr__(self, "of", of)
        object.__setattr__(self, "precision", precision)

    @property
    def calls(self) -> tuple[Kernel, ...]:
        """The call, in float."""
        return (self.of,)

    @cached_property
    def text(self) -> str:
        """The key: the precision before the float kernel's."""
        return f"{self.precision}: {self.of.text}"


def parse_quantized(text: str) -> Quantized:
    """Read a kernel in a precision from its text; raises UsageError saying what cannot be read."""
    precision, _, call = text.partition(": ")
    if precision not in PRECISIONS:
        raise UsageError(f"{text!r} is not a kernel in int8: it begins with {' or '.join(PRECISIONS)}")
    return Quantized(parse_kernel(call), precision)
