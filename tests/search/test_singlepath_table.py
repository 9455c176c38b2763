"""Single-Path NAS's latency table of a Pixel 1 (Stamoulis et al., ECML 2019): its totals, and as a programme.

A searched block is a depthwise superkernel of 5x5 at expansion 6. Indicators choose: d5 the outer ring, d50 the
first half of the channels, d100 the second. With R the block's row of the table,

    Rch = d50 (R[5x5-e3] + d100 (R[5x5-e6] - R[5x5-e3])),   rho = R[3x3-e6] / R[5x5-e6],
    R_l = rho Rch + d5 (1 - rho) Rch.
"""

import csv
from pathlib import Path

import pytest

from compiler.search.solver import Problem, fastest, solve

OPTIONS = ("3x3-e3", "3x3-e6", "5x5-e3", "5x5-e6")
SEARCHED = range(1, 21)
REST_MS = 19.5999  # stem, head, logits, block 0, block 21
TOTALS = {"3x3-e3": 65.69, "3x3-e6": 110.65, "5x5-e3": 76.36, "5x5-e6": 131.46}
PATTERNS = {  # (d5, d50, d100)
    (0, 1, 0): "3x3-e3",
    (0, 1, 1): "3x3-e6",
    (1, 1, 0): "5x5-e3",
    (1, 1, 1): "5x5-e6",
    (0, 0, 0): "skip",
}


def read() -> dict[int, dict[str, float]]:
    path = Path(__file__).parents[1] / "data/singlepath_pixel1.csv"
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    table: dict[int, dict[str, float]] = {}
    for row in csv.DictReader(lines):
        table.setdefault(int(row["block"]), {})[row["option"]] = float(row["ms"])
    return table


TABLE = read()


def relaxed(row: dict[str, float], d5: int, d50: int, d100: int) -> float:
    own = d50 * (row["5x5-e3"] + d100 * (row["5x5-e6"] - row["5x5-e3"]))
    rho = row["3x3-e6"] / row["5x5-e6"]
    return rho * own + d5 * (1 - rho) * own


def programme(limit: float) -> Problem:
    """One group a block, as fast options as the table has; a larger block costs less."""
    times = tuple(tuple(TABLE[b][o] for o in OPTIONS) for b in SEARCHED)
    costs = tuple((0.4 + 0.01 * b, 0.1 + 0.002 * b, 0.3 - 0.005 * b, 0.0) for b in SEARCHED)
    return Problem(costs, times, limit=limit - REST_MS)


@pytest.mark.parametrize("option", OPTIONS)
def test_uniform_networks_have_the_published_totals(option: str) -> None:
    assert REST_MS + sum(TABLE[b][option] for b in SEARCHED) == pytest.approx(TOTALS[option], abs=0.005)
    uniform = (OPTIONS.index(option),) * len(SEARCHED)
    assert programme(0).time(uniform) + REST_MS == pytest.approx(TOTALS[option], abs=0.005)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("block", SEARCHED)
def test_hard_thresholds_reproduce_the_table(block: int, pattern: tuple[int, int, int]) -> None:
    row, option = TABLE[block], PATTERNS[pattern]
    rho = row["3x3-e6"] / row["5x5-e6"]
    # The relaxation never reads 3x3-e3: it is predicted by the ratio of the kernels at expansion 6.
    expected = {**row, "3x3-e3": rho * row["5x5-e3"], "skip": 0.0}[option]
    assert relaxed(row, *pattern) == pytest.approx(expected, rel=1e-12)


def test_the_predicted_option_is_within_the_error_the_table_has() -> None:
    errors = [abs(relaxed(TABLE[b], 0, 1, 0) / TABLE[b]["3x3-e3"] - 1) for b in SEARCHED]
    assert sum(errors) / len(errors) == pytest.approx(0.015, abs=0.0005)
    assert max(errors) == pytest.approx(0.048, abs=0.0005)


def test_the_programme_on_the_table() -> None:
    assert fastest(programme(0)).time + REST_MS == pytest.approx(TOTALS["3x3-e3"], abs=0.005)
    assert solve(programme(65.6)) is None
    assert solve(programme(131.5)).choice == (3,) * len(SEARCHED)
    costs = []
    for budget in (66, 79, 100, 120):
        found = solve(programme(budget))
        assert found.time + REST_MS <= budget + 1e-6
        costs.append(found.cost)
    assert costs == sorted(costs, reverse=True)
