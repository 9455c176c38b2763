"""Kernels read back from a latency table's keys, and the model of all that a table holds."""

from __future__ import annotations

from collections.abc import Collection

from compiler.cost.composite import Composite
from compiler.cost.fitted import FittedModel, Reading, fit
from compiler.cost.fusion import is_composite, parse_composite
from compiler.cost.kernel import Kernel, parse_kernel
from compiler.cost.latency_table import LatencyTable
from compiler.cost.program import PREFIX
from compiler.cost.quantized import PRECISIONS, parse_quantized


def read_kernel(text: str) -> Kernel | None:
    """Return the kernel of a table's key, None for a whole program; raises UsageError for no key."""
    if text.startswith(PREFIX):
        return None
    if text.startswith(tuple(f"{p}: " for p in PRECISIONS)):
        return parse_quantized(text)
    return parse_composite(text) if is_composite(text) else parse_kernel(text)


def readings(table: LatencyTable, without: Collection[str] = ()) -> list[Reading]:
    """Return the readings of a table that a model learns from, but those of the texts in `without`."""
    found = [(read_kernel(text), text, entry) for text, entry in table.entries.items() if text not in without]
    return [
        Reading(kernel, entry)
        for kernel, _, entry in found
        if kernel is not None and not isinstance(kernel, Composite)
    ]


def fit_table(
    table: LatencyTable, without: Collection[str] = (), other: FittedModel | None = None
) -> FittedModel | None:
    """Return the model of a table's single kernels, None where there are too few.

    Pairs that were measured for what they save, and candidates of a split, teach nothing of single kernels.
    """
    try:
        return fit(readings(table, without), other)
    except ValueError:
        return None
