"""Each device's plan on another device: does a plan made for a device beat one that was made elsewhere?

The plan that ours found elsewhere is compiled for this device and measured on it, interleaved with the
float program and this device's own plan. It is worse where it is over the budget; otherwise the lower
KL divergence on held-out samples is better, beyond the noise of the paired difference.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from benchmarks.cells.judge import OURS, Cell, Entry, difference, read_cell
from benchmarks.cells.run import STRATEGIES, Answer, Place, built, judged, tell, write_json
from benchmarks.trained import Trained


class Standing(StrEnum):
    """How a device's own plan stands beside one from elsewhere."""

    BETTER = "better"
    ALIKE = "alike"
    WORSE = "worse"
    SAME = "the same plan"


@dataclass(frozen=True)
class Crossing:
    """A cell's own plan and another device's, both as measured on this device."""

    model: str
    budget: float
    device: str
    other: str
    own_plan: Entry
    other_plan: Entry

    def document(self) -> dict[str, Any]:
        """Return the crossing as JSON values."""
        return {**asdict(self), "standing": standing(self).value}


def read_crossing(document: Mapping[str, Any]) -> Crossing:
    """Return a crossing from its document."""
    fields = {key: value for key, value in document.items() if key != "standing"}
    for key in ("own_plan", "other_plan"):
        fields[key] = Entry(**{**fields[key], "divergences": tuple(fields[key]["divergences"])})
    return Crossing(**fields)


def standing(crossing: Crossing) -> Standing:
    """Return how the device's own plan stands."""
    own, other = crossing.own_plan, crossing.other_plan
    if own.plan == other.plan:
        return Standing.SAME
    if not other.within(crossing.budget):
        return Standing.BETTER
    low, high = difference(own.divergences, other.divergences)
    if high < 0:
        return Standing.BETTER
    return Standing.WORSE if low > 0 else Standing.ALIKE


def crossed(network: Trained, budget: float, work: Path) -> None:
    """Measure each device's plan of a cell on the other devices of its runtime, where it is not done."""
    for here, there in _pairs(network.name, budget, work):
        folder = work / here.folder / network.name / f"{budget:g}"
        path = folder / f"crossed-{there.folder}.json"
        if not path.exists():
            tell(f"{network.name} at {budget:g}x: the plan of {there.name} on {here.name}")
            write_json(path, _crossed(network, budget, here, there, folder, work).document())


def _pairs(model: str, budget: float, work: Path) -> Iterator[tuple[Place, Place]]:
    found = [Place(**json.loads(path.read_text())) for path in sorted(work.glob("*/place.json"))]
    done = [place for place in found if _ours(model, budget, place, work) is not None]
    yield from ((a, b) for a in done for b in done if a != b and a.target == b.target)


def _ours(model: str, budget: float, place: Place, work: Path) -> Entry | None:
    path = work / place.folder / model / f"{budget:g}" / "cell.json"
    if not path.exists():
        return None
    cell: Cell = read_cell(json.loads(path.read_text()))
    return cell.entries.get(OURS)


def _crossed(
    network: Trained, budget: float, here: Place, there: Place, folder: Path, work: Path
) -> Crossing:
    own, elsewhere = (_ours(network.name, budget, place, work) for place in (here, there))
    assert own is not None, "the pairs are of finished cells"
    assert elsewhere is not None, "the pairs are of finished cells"
    if own.plan == elsewhere.plan:
        return Crossing(network.name, budget, here.name, there.name, own, own)
    place = folder / f"from-{there.folder}"
    built(network, here, elsewhere.plan, place)
    searched = folder / STRATEGIES[OURS] / "artifact"
    answers = {
        OURS: Answer(own.evaluations, plan=own.plan, artifact=str(searched), searched=own.searched),
        there.name: Answer(0, plan=elsewhere.plan, artifact=str(place)),
    }
    found = judged(network, here, answers, work)
    other = found[there.name]  # nobody searched with it here: its bound is as measured now
    other = replace(other, searched=other.high)
    return Crossing(network.name, budget, here.name, there.name, found[OURS], other)


def cross_table(crossings: Sequence[Crossing]) -> str:
    """Return the crossings as a Markdown table."""
    lines = [
        "## Each device's plan on the others",
        "",
        "| network | budget | on | own plan measured | KL, nats | plan of | measured | KL, nats | own is |",
        "|" + "---|" * 9,
    ]
    for c in crossings:
        own, other = (_facts(entry) for entry in (c.own_plan, c.other_plan))
        lines.append(
            f"| {c.model} | {c.budget:g}x | {c.device} | {own} | {c.other} | {other} | {standing(c)} |"
        )
    found = [standing(c) for c in crossings]
    counts = ", ".join(f"{s.value} in {found.count(s)}" for s in Standing if s in found)
    return "\n".join([*lines, "", f"The device's own plan is {counts} of {len(found)} crossings."])


def _facts(entry: Entry) -> str:
    return f"{entry.ratio:.3f}x ({entry.low:.3f} to {entry.high:.3f}) | {entry.divergence:.3g}"
