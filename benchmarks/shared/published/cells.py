"""NAS-Bench-201's cells: six edges between four nodes, each with one of five operations, as digits.

What of a cell a runtime executes is not said: all its edges; those that the output is reached from (a
converter removes what nobody reads); or of these only those that the input reaches (no edges of zeros).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int64]
Floats = NDArray[np.float64]

EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))
NONE, SKIP, CONV1, CONV3, POOL = range(5)
OPERATIONS = ("none", "skip", "conv1x1", "conv3x3", "avgpool")


def views(codes: Codes) -> dict[str, Codes]:
    """Return the cells as they are, less what is not read, and less what is not fed either."""
    used, live = codes.copy(), codes.copy()
    for row in range(len(codes)):
        read, fed = _reading(codes[row]), _fed(codes[row])
        for edge, (start, end) in enumerate(EDGES):
            if end not in read:
                used[row, edge] = live[row, edge] = NONE
            if start not in fed:
                live[row, edge] = NONE
    return {"all": codes, "used": used, "live": live}


def _reading(code: Codes) -> set[int]:
    found = {3}
    for edge, (start, end) in reversed(list(enumerate(EDGES))):
        if code[edge] and end in found:
            found.add(start)
    return found


def _fed(code: Codes) -> set[int]:
    found = {0}
    for edge, (start, end) in enumerate(EDGES):
        if code[edge] and start in found:
            found.add(end)
    return found


def twins(codes: Codes) -> list[tuple[int, int]]:
    """Return pairs of rows that are one network: nodes 1 and 2 swapped, where no edge is between them."""
    places = {tuple(map(int, code)): row for row, code in enumerate(codes)}
    swapped = [(int(c[1]), int(c[0]), NONE, int(c[3]), int(c[5]), int(c[4])) for c in codes]
    pairs = [(row, places.get(other, -1)) for row, other in enumerate(swapped) if codes[row][2] == NONE]
    return [(a, b) for a, b in pairs if a < b]


def counts(codes: Codes) -> Floats:
    """Return how often each operation but `none` is there."""
    return np.stack([(codes == o).sum(1) for o in range(1, 5)], 1).astype(float)


def indicators(codes: Codes) -> Floats:
    """Return an indicator for each edge and operation but `none`."""
    return np.concatenate([codes == o for o in range(1, 5)], 1).astype(float)


def described(codes: Codes) -> Floats:
    """Return what accuracy may depend on: live edges, their counts, and the paths through the cell."""
    live = views(codes)["live"]
    return np.concatenate([indicators(live), counts(live), np.array([_paths(code) for code in live])], 1)


def _paths(code: Codes) -> list[float]:
    kept = [[int(code[edge]) for edge in path] for path in PATHS]
    kept = [path for path in kept if NONE not in path]
    threes = [path.count(CONV3) for path in kept] or [0]
    convolutions = [path.count(CONV3) + path.count(CONV1) for path in kept] or [0]
    plain = sum(all(o == SKIP for o in path) for path in kept)
    shortest = min(map(len, kept), default=0)
    return [len(kept), max(threes), max(convolutions), sum(threes), sum(convolutions), plain, shortest]
