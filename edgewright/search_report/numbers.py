"""Numbers as people read them."""

from __future__ import annotations

import math

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def number(value: float, digits: int = 3) -> str:
    """Return a number in a few digits, very small and large ones with a power of ten."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    power = math.floor(math.log10(abs(value)))
    if -4 < power < 5:
        return f"{value:.{digits}g}" if power < digits else f"{value:.0f}"
    mantissa = f"{value / 10**power:.{digits - 1}f}".rstrip("0").rstrip(".")
    tens = f"10{str(power).translate(_SUPERSCRIPTS)}"
    return {"1": tens, "-1": f"−{tens}"}.get(mantissa, f"{mantissa}×{tens}").replace("-", "−")


def signed(value: float) -> str:
    """Return a change, with its sign."""
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{number(abs(value))}"


def large(value: float) -> str:
    """Return a count with a prefix: 12.3 M."""
    for size, prefix in _PREFIXES:
        if value >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g}"
