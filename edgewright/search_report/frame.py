"""The paper a picture is drawn on: its two widths, axes, and labels that keep clear of one another."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

from edgewright.search_report.numbers import number
from edgewright.search_report.scales import Scale
from edgewright.search_report.svg import FONT, element, label, line, shortened, text_width

BOLD = 1.12  # width of bold text over that of plain text
WIDE, NARROW = 880.0, 340.0  # px: a screen or paper, and a phone

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Frame:
    """The area that a picture's data takes, in px."""

    width: float
    height: float
    left: float = 64.0
    top: float = 28.0
    right: float = 16.0
    bottom: float = 44.0

    @property
    def x0(self) -> float:
        """The left edge of the data."""
        return self.left

    @property
    def x1(self) -> float:
        """The right edge of the data."""
        return self.width - self.right

    @property
    def y0(self) -> float:
        """The lower edge of the data."""
        return self.height - self.bottom

    @property
    def y1(self) -> float:
        """The upper edge of the data."""
        return self.top

    def picture(self, title: str, *children: str) -> str:
        """Return the whole picture; `title` says what it shows to those who do not see it."""
        return element(
            "svg",
            *children,
            class_="wide" if self.width > NARROW else "narrow",
            viewBox=f"0 0 {self.width:g} {self.height:g}",
            role="img",
            aria_label=title,
        )

    def x_axis(self, scale: Scale, title: str) -> str:
        """Return the axis below, with its grid."""
        drawn, end = [], -1e9
        for value in scale.ticks(8 if self.width > NARROW else 4):
            x, text = scale.at(value), number(value)
            if x - text_width(text) / 2 < end + 8:
                continue
            end = x + text_width(text) / 2
            drawn += [
                line(x, self.y1, x, self.y0, "grid"),
                label(x, self.y0 + 16, text, _within(x, self), "tick"),
            ]
        name = label(self.x1, self.height - 8, shortened(title, self.width - 8), "end", "axis")
        return "".join([*drawn, line(self.x0, self.y0, self.x1, self.y0, "axis-line"), name])

    def y_axis(self, scale: Scale, title: str) -> str:
        """Return the axis on the left, with its grid; its title stands above."""
        drawn, end = [], 1e9
        for value in scale.ticks(6):
            y = scale.at(value)
            if y > end - FONT - 3:
                continue
            end = y
            drawn += [
                line(self.x0, y, self.x1, y, "grid"),
                label(self.x0 - 8, y + 4, number(value), "end", "tick"),
            ]
        name = label(4, 14, shortened(title, self.width - 8), "start", "axis")
        return "".join([*drawn, line(self.x0, self.y0, self.x0, self.y1, "axis-line"), name])


@dataclass
class Labels:
    """Names beside points, each where there is room, or nowhere."""

    frame: Frame
    taken: list[Box] = field(default_factory=list)
    lines: list[Box] = field(default_factory=list)

    def keep(self, x: float, y: float, reach: float = 5.0) -> None:
        """Keep labels off a point."""
        self.taken.append((x - reach, y - reach, x + reach, y + reach))

    def keep_line(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """Keep labels off a line."""
        steps = max(1, round(max(abs(x2 - x1), abs(y2 - y1)) / 8)) if x1 != x2 and y1 != y2 else 1
        for i in range(steps):
            ends = [(a + (b - a) * j / steps) for a, b in ((x1, x2), (y1, y2)) for j in (i, i + 1)]
            self.lines.append((min(ends[:2]) - 2, min(ends[2:]) - 2, max(ends[:2]) + 2, max(ends[2:]) + 2))

    def place(self, x: float, y: float, text: str, strong: bool = False) -> str:
        """Return a name beside a point, nothing where there is no room; a strong one may lie on lines."""
        text = shortened(text, 190)
        wide = text_width(text) * (BOLD if strong else 1)
        found = self._free(x, y, wide, self.taken + self.lines)
        if found is None and strong:
            found = self._free(x, y, wide, self.taken)
        if found is None:
            return ""
        self.taken.append(found)
        return label(found[0], found[3] - 3, text, "start", "label strong halo" if strong else "label")

    def _free(self, x: float, y: float, wide: float, taken: list[Box]) -> Box | None:
        for dx, dy in _PLACES:
            left = x + dx if dx > 0 else x - wide + dx if dx < 0 else x - wide / 2
            box = (left, y + dy - FONT, left + wide, y + dy + 3)
            if self._inside(box) and not any(_meet(box, other) for other in taken):
                return box
        return None

    def _inside(self, box: Box) -> bool:
        f = self.frame
        return f.x0 < box[0] and box[2] < f.width - 2 and f.y1 - 8 < box[1] and box[3] < f.y0


_PLACES = ((12, 4), (-12, 4), (0, -12), (0, 22), (12, -10), (-12, -10), (12, 20), (-12, 20))


def legend(*entries: tuple[str, str]) -> str:
    """Return what signs mean, as a list: (class of the sign, its meaning)."""
    signs = (element("li", element("i", class_=f"sign {sign}"), escape(text)) for sign, text in entries)
    return element("ul", *signs, class_="legend")


def _within(x: float, frame: Frame) -> str:
    return "end" if x > frame.x1 - 20 else "middle"


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
