"""The chosen variant's kernels in the order they run, against what the machine can feed them.

Above, a bar for each kernel: operations for each byte moved. The waterline is the machine's balance: a bar
under it waits for memory, one above it computes. Bars are as wide as the time a kernel can at best take, so
that width is what there is to gain. Below, the same kernels' attainable time, and the measured one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from edgewright.search_report.data import KernelRow, ReportData
from edgewright.search_report.frame import Frame, legend
from edgewright.search_report.numbers import large, number
from edgewright.search_report.scales import Log, Scale, log
from edgewright.search_report.section import Section, figure, folded, table
from edgewright.search_report.svg import dot, element, label, line, mark, text_width

LEAST = 0.3  # px: a narrower bar is not drawn
PANEL, GAP = 210.0, 58.0

LEGEND = (
    ("compute", "computes"),
    ("bandwidth", "waits for memory"),
    ("balance", "waterline: the machine's balance"),
    ("attainable", "attainable time"),
)
MEASURED = ("measured", "measured time")


def waterline(data: ReportData) -> Section:
    """Return the section."""
    title = "Waterline of the chosen variant"
    if not data.kernels:
        return Section("waterline", title, "The chosen variant runs no kernel.", "")
    entries = (*LEGEND, MEASURED) if any(k.measured is not None for k in data.kernels) else LEGEND
    body = figure(lambda width: _draw(data, width), legend(*entries)) + folded(
        "The same as a table", _table(data)
    )
    return Section("waterline", title, _says(data), body)


def _says(data: ReportData) -> str:
    whole = sum(k.attainable for k in data.kernels)
    waiting = sum(k.attainable for k in data.kernels if k.bound == "bandwidth")
    known = sum(k.measured is not None for k in data.kernels)
    measured = f"{known} of them were measured alone." if known else "None of them was measured alone."
    return (
        f"Of the time the chosen variant's {len(data.kernels)} kernels need at best, "
        f"{100 * waiting / whole:.0f}% is spent waiting for memory. A bar is as wide as its kernel's share "
        f"of that time. {measured} The machine is drawn from {data.machine}."
    )


def _draw(data: ReportData, width: float) -> str:
    upper = Frame(width, 28 + PANEL, bottom=0)
    lower = Frame(width, 28 + 2 * PANEL * 0.86 + GAP, top=28 + PANEL + GAP)
    places = tuple(_places(data.kernels, upper))
    balances = sorted({(k.precision, k.balance) for k in data.kernels})
    rise = log(
        [*(k.intensity for k in data.kernels), *(b for _, b in balances)], upper.y0, upper.y1, room=0.12
    )
    times = [k.attainable for k in data.kernels] + [k.measured for k in data.kernels if k.measured]
    time = log(times, lower.y0, lower.y1, room=0.12)
    return lower.picture(
        f"Operational intensity of {len(data.kernels)} kernels against the machine's balance, and their "
        "times.",
        upper.y_axis(rise, "operations for each byte moved (log)"),
        *(_bar(k, span, rise, upper) for k, span in places if span[1] - span[0] >= LEAST),
        *_balances(balances, rise, upper),
        line(upper.x0, upper.y0, upper.x1, upper.y0, "axis-line"),
        *_modules(places, upper.y0 + 16, upper),
        _time_axis(lower, time, f"time, {data.kernel_unit} (log)"),
        *(_time(k, span, time, data.kernel_unit) for k, span in places if span[1] - span[0] >= LEAST),
        line(lower.x0, lower.y0, lower.x1, lower.y0, "axis-line"),
        label(lower.x1, lower.y0 + 18, "kernels in the order they run", "end", "axis"),
    )


def _places(kernels: Sequence[KernelRow], frame: Frame) -> Iterator[tuple[KernelRow, tuple[float, float]]]:
    whole, start = sum(k.attainable for k in kernels), frame.x0
    for kernel in kernels:
        end = start + kernel.attainable / whole * (frame.x1 - frame.x0)
        yield kernel, (start, end)
        start = end


def _bar(k: KernelRow, span: tuple[float, float], rise: Log, frame: Frame) -> str:
    top, width = rise.at(k.intensity), span[1] - span[0]
    inset = min(0.5, width / 6)
    shape = element(
        "rect",
        x=span[0] + inset,
        y=top,
        width=width - 2 * inset,
        height=max(0.5, frame.y0 - top),
        class_=k.bound,
    )
    return mark(_tip(k), shape)


def _tip(k: KernelRow) -> str:
    return (
        f"{k.name} ({k.op}, {k.precision}){f' in {k.module}' if k.module else ''}\n"
        f"{large(k.operations)} operations, {large(k.bytes)}B moved, {number(k.intensity)} for each byte\n"
        f"balance {number(k.balance)}: {k.bound}-bound"
    )


def _balances(balances: Sequence[tuple[str, float]], rise: Scale, frame: Frame) -> Iterator[str]:
    last = -1e9
    for precision, balance in balances:
        y = rise.at(balance)
        yield line(frame.x0, y, frame.x1, y, "balance")
        if abs(y - last) > 16:
            last = y
            text = f"balance {precision}: {number(balance)}"
            yield label(frame.x1 - 2, y - 5, text, "end", "label strong halo")


def _modules(
    places: Sequence[tuple[KernelRow, tuple[float, float]]], y: float, frame: Frame
) -> Iterator[str]:
    """Yield the names of modules under their kernels, where there is room."""
    end = frame.x0 - 8
    for module, run in groupby(places, key=lambda place: ".".join(place[0].module.split(".")[:2])):
        spans = [span for _, span in run]
        left, right = spans[0][0], spans[-1][1]
        text = module if text_width(module) <= right - left else f"…{module.rsplit('.', 1)[-1]}"
        middle, half = (left + right) / 2, text_width(text) / 2
        if not module or 2 * half > right - left or middle - half < end + 6:
            continue
        end = middle + half
        yield label(middle, y, text, "middle", "tick")


def _time_axis(frame: Frame, scale: Scale, title: str) -> str:
    ticks = [
        line(frame.x0, scale.at(v), frame.x1, scale.at(v), "grid")
        + label(frame.x0 - 8, scale.at(v) + 4, number(v), "end", "tick")
        for v in scale.ticks(5)
    ]
    return "".join([*ticks, label(4, frame.y1 - 12, title, "start", "axis")])


def _time(k: KernelRow, span: tuple[float, float], time: Scale, unit: str) -> str:
    y, middle = time.at(k.attainable), (span[0] + span[1]) / 2
    told = f"{k.name}: attainable {number(k.attainable)} {unit}"
    if k.measured is None:
        return mark(told, line(span[0], y, span[1], y, "attainable"))
    above = time.at(k.measured)
    return mark(
        f"{told}, measured {number(k.measured)} {unit}",
        line(span[0], y, span[1], y, "attainable"),
        line(middle, y, middle, above, "gap"),
        dot(middle, above, "measured", 3),
    )


def _table(data: ReportData) -> str:
    columns = (
        *("kernel", "module", "format", "bound by", "operations", "bytes", "operations a byte"),
        *(f"attainable, {data.kernel_unit}", f"measured, {data.kernel_unit}"),
    )
    rows = [
        (
            *(k.name, k.module, k.precision, k.bound, large(k.operations), large(k.bytes)),
            *(number(k.intensity), number(k.attainable), "–" if k.measured is None else number(k.measured)),
        )
        for k in data.kernels
    ]
    return table("Kernels of the chosen variant", columns, rows, 5)
