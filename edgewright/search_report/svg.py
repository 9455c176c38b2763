"""Elements of a page as text, with everything that is data escaped."""

from __future__ import annotations

from html import escape

FONT = 12.0  # px of every label in a picture
GLYPH = 0.58  # width of a character over the font's size: a generous mean, for labels must not collide


def element(tag: str, *children: str, **attributes: object) -> str:
    """Return an element; an underscore in an attribute's name is a hyphen, one at its end falls away."""
    named = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    written = "".join(f' {key}="{escape(_value(value))}"' for key, value in named if value is not None)
    return f"<{tag}{written}>{''.join(children)}</{tag}>" if children else f"<{tag}{written}></{tag}>"


def label(x: float, y: float, text: str, anchor: str = "start", class_: str = "label") -> str:
    """Return text in a picture, its baseline at `y`."""
    return element("text", escape(text), x=x, y=y, text_anchor=anchor, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """Return a straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def mark(tip: str, *children: str, class_: str = "mark") -> str:
    """Return shapes that tell something when pointed at."""
    return element("g", element("title", escape(tip)), *children, class_=class_)


def dot(x: float, y: float, class_: str, radius: float = 4.5) -> str:
    """Return a disc."""
    return element("circle", cx=x, cy=y, r=radius, class_=class_)


def diamond(x: float, y: float, class_: str, reach: float = 8.0) -> str:
    """Return the sign of the winner."""
    points = ((x, y - reach), (x + reach, y), (x, y + reach), (x - reach, y))
    return element("polygon", points=" ".join(f"{_value(a)},{_value(b)}" for a, b in points), class_=class_)


def text_width(text: str) -> float:
    """Return about how wide a label is, in px."""
    return len(text) * FONT * GLYPH


def shortened(text: str, width: float) -> str:
    """Return a text that fits a width in px, its middle left out where it must be."""
    most = max(3, int(width / (FONT * GLYPH)))
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def _value(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
