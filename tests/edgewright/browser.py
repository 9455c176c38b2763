"""A page as Chromium shows it: its text boxes, what it says on the console, and a picture of it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *(
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
    ),
)

# Boxes of all text that is painted: (text, left, top, right, bottom, picture it is in, whether inside of it).
PROBE = """
addEventListener("load", () => {
  const boxes = [], pictures = [...document.querySelectorAll("svg")];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, range = document.createRange();
    if (!node.data.trim() || node.parentElement.closest("script, style, title")) continue;
    if (!node.parentElement.checkVisibility()) continue; // folded away
    range.selectNodeContents(node);
    for (const r of range.getClientRects()) {
      if (!r.width || !r.height) continue;
      const picture = node.parentElement.closest("svg"), p = picture?.getBoundingClientRect();
      const inside = !p || (r.left >= p.left - 1 && r.right <= p.right + 1 && r.top >= p.top - 1 && r.bottom <= p.bottom + 1);
      boxes.push([node.data, r.left, r.top, r.right, r.bottom, pictures.indexOf(picture), inside]);
    }
  }
  const root = document.documentElement;
  const shown = pictures.filter(p => p.getBoundingClientRect().height > 0).length;
  parent.postMessage({width: innerWidth, content: root.scrollWidth, height: root.scrollHeight, shown, boxes}, "*");
});
"""
COLLECT = """
const found = [];
addEventListener("message", event => {
  found.push(event.data);
  document.getElementById("found").textContent = JSON.stringify(found);
});
"""


@dataclass(frozen=True)
class Box:
    """One line of text where it is painted; `inside` tells whether its picture holds all of it."""

    text: str
    left: float
    top: float
    right: float
    bottom: float
    picture: int
    inside: bool

    def overlaps(self, other, slack=1.0):
        wide = min(self.right, other.right) - max(self.left, other.left)
        return wide > slack and min(self.bottom, other.bottom) - max(self.top, other.top) > slack


@dataclass(frozen=True)
class Shown:
    """A page at one width: how wide and high its content came out, its pictures and its text."""

    width: int
    content: int
    height: int
    pictures: int
    boxes: tuple[Box, ...]

    def overlapping(self):
        ordered = sorted(self.boxes, key=lambda b: b.top)
        return [
            (a.text, b.text)
            for i, a in enumerate(ordered)
            for b in ordered[i + 1 :]
            if b.top < a.bottom and a.overlaps(b)
        ]


def browser():
    """Return the path of a Chromium, None where there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def shown(page: str, widths, folder: Path):
    """Return a page at several widths, by width, and what it said on the console."""
    probed = page.replace("</body>", f"<script>{PROBE}</script></body>")
    assert probed != page
    (folder / "probed.html").write_text(probed, encoding="utf-8")
    frames = "".join(
        f'<iframe src="probed.html" width="{w}" height="900" frameborder="0"></iframe>' for w in widths
    )
    outer = f'<!DOCTYPE html><body><pre id="found"></pre><script>{COLLECT}</script>{frames}</body>'
    (folder / "outer.html").write_text(outer, encoding="utf-8")
    flags = ("--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom")
    done = run(folder / "outer.html", folder, *flags)
    found = json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)[1]))
    pages = [
        Shown(f["width"], f["content"], f["height"], f["shown"], tuple(Box(*b) for b in f["boxes"]))
        for f in found
    ]
    return {p.width: p for p in pages}, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def screenshot(page: str, folder: Path, width=1280, height=1600, dark=False):
    """Return a PNG of the upper part of a page, as bytes."""
    (folder / "page.html").write_text(page, encoding="utf-8")
    picture = folder / "page.png"
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    run(folder / "page.html", folder, *scheme, f"--window-size={width},{height}", f"--screenshot={picture}")
    return picture.read_bytes()


def run(path: Path, folder: Path, *flags: str):
    own = (f"--user-data-dir={folder / 'profile'}", *flags, path.as_uri())
    return subprocess.run([browser(), *FLAGS, *own], capture_output=True, text=True, timeout=600, check=True)
