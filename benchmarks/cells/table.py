"""The cells of one device as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.cells.judge import OURS, UNIFORM, Cell, Entry, best_rival, summary, verdict

COLUMNS = (
    "network",
    "budget",
    "accuracy, float",
    "way",
    "measured",
    "within",
    "accuracy",
    "KL, nats",
    "variants measured",
    "ours",
)


def table(cells: Sequence[Cell]) -> str:
    """Return a row a way: ours, uniform int8, and that of the other strategies which lost least."""
    rows = [row for cell in cells for row in _rows(cell)]
    return "\n".join([f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS), *rows, "", summary(cells)])


def _rows(cell: Cell) -> list[str]:
    rival = best_rival(cell)
    ways = {OURS: OURS, UNIFORM: UNIFORM, f"best of the others: {rival or 'none within'}": rival}
    rows = []
    for shown, way in ways.items():
        first = way == OURS
        start = [cell.model, f"{cell.budget:g}x", f"{cell.accuracy:.3f}"] if first else ["", "", ""]
        own = _facts(cell, way)
        rows.append(f"| {' | '.join([*start, shown, *own, verdict(cell).value if first else ''])} |")
    return rows


def _facts(cell: Cell, way: str | None) -> list[str]:
    if way is not None and way in cell.entries:
        return _entry(cell.entries[way], cell.budget)
    return ["-", "no", "-", "-", "-"]


def _entry(entry: Entry, budget: float) -> list[str]:
    return [
        f"{entry.ratio:.3f}x ({entry.low:.3f} to {entry.high:.3f})",
        "yes" if entry.within(budget) else "no",
        f"{entry.accuracy:.3f}",
        f"{entry.divergence:.3g}",
        str(entry.evaluations),
    ]
