"""English prose as bytes: this project's own documents and docstrings, `prose.txt` beside this file.

The text is cut into blocks of 2048 bytes, which a seed deals out once: eight of ten to train on, one to
calibrate with and one to judge by. A window of 64 bytes never crosses the edge of a block, so that no
byte is in two parts. What follows a window is its label.

    python -m benchmarks.trained.text     write prose.txt anew, from the tree as it is
"""

from __future__ import annotations

import ast
import re
from enum import Enum
from functools import cache
from pathlib import Path

import torch

PROSE = Path(__file__).with_name("prose.txt")
ROOT = Path(__file__).parents[2]
SOURCES = ("compiler", "devices", "edgewright", "targets", "profiles")
WINDOW, SYMBOLS = 64, 128
BLOCK = 2048
SPLIT_SEED = 0

Tensor = torch.Tensor


class Part(Enum):
    """Which of the blocks, by their place in the deal modulo ten."""

    TRAIN = (0, 1, 2, 3, 4, 5, 6, 7)
    CALIBRATION = (8,)
    TEST = (9,)


def windows(which: Part, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return windows int64[count, 64] of a part, and the byte after each place in them, of the same shape."""
    blocks = _blocks(which)
    g = torch.Generator().manual_seed(seed)
    picked = torch.randint(len(blocks), (count, 1), generator=g)
    start = torch.randint(BLOCK - WINDOW, (count, 1), generator=g)
    span = blocks[picked, start + torch.arange(WINDOW + 1)]
    return span[:, :-1], span[:, 1:]


@cache
def _blocks(which: Part) -> Tensor:
    data = torch.frombuffer(bytearray(PROSE.read_bytes()), dtype=torch.uint8).long()
    blocks = data[: len(data) // BLOCK * BLOCK].reshape(-1, BLOCK)
    order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(SPLIT_SEED))
    return blocks[order[[i for i in range(len(blocks)) if i % 10 in which.value]]]


def collect(root: Path = ROOT) -> str:
    """Return the prose of a tree: its Markdown without tables and code, then its docstrings; ASCII."""
    pages = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]
    parts = [_prose(page.read_text(encoding="utf-8")) for page in pages]
    for folder in SOURCES:
        parts += [_docstrings(path) for path in sorted((root / folder).rglob("*.py"))]
    text = "\n\n".join(part for part in parts if part)
    return text.encode("ascii", "ignore").decode()


def _prose(page: str) -> str:
    page = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(x for x in page.splitlines() if not x.startswith("|"))).strip()


def _docstrings(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
    return "\n".join(text for text in found if text)


if __name__ == "__main__":
    PROSE.write_text(collect(), encoding="ascii")
