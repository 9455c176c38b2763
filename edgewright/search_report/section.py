"""A section of the page: its heading, what it says in words, and its picture or table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from edgewright.search_report.frame import NARROW, WIDE
from edgewright.search_report.svg import element


@dataclass(frozen=True)
class Section:
    """One section; `says` is plain text that holds the point, `body` is what follows it, as HTML."""

    name: str
    title: str
    says: str
    body: str

    def html(self) -> str:
        """Return the section as HTML."""
        heading = element("h2", escape(self.title), id=self.name)
        return element(
            "section", heading, element("p", escape(self.says)), self.body, aria_labelledby=self.name
        )


def figure(draw: Callable[[float], str], *below: str) -> str:
    """Return a picture drawn once for screens and paper and once for phones; the page shows one of them."""
    return element("figure", draw(WIDE), draw(NARROW), *below)


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: int) -> str:
    """Return a table, its cells plain text; the last `numeric` columns hold numbers.

    The first column heads its rows; where neighbours agree in it, one cell heads them all.
    """
    first = len(columns) - numeric
    head = (
        element("th", escape(c), scope="col", class_="number" if i >= first else None)
        for i, c in enumerate(columns)
    )
    body = "".join(_row(rows, index, first) for index in range(len(rows)))
    return element(
        "div",
        element(
            "table",
            element("caption", escape(caption)),
            element("thead", element("tr", *head)),
            element("tbody", body),
        ),
        class_="scroll",
        tabindex=0,
        role="region",
        aria_label=caption,
    )


def folded(title: str, body: str) -> str:
    """Return something that is shown when asked for; on paper it stays away."""
    return element("details", element("summary", escape(title)), body)


def _row(rows: Sequence[Sequence[str]], index: int, first: int) -> str:
    row, cells = rows[index], []
    if not index or rows[index - 1][0] != row[0]:
        same = next((i for i in range(index, len(rows)) if rows[i][0] != row[0]), len(rows)) - index
        cells.append(element("th", escape(row[0]), scope="row", rowspan=same if same > 1 else None))
    for i, text in enumerate(row[1:], start=1):
        cells.append(element("td", escape(text), class_="number" if i >= first else None))
    return element("tr", *cells)
