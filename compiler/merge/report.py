"""From the pieces of a chain to the attempts that `explain` prints and tests assert."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

from compiler.ir.graph import Graph, Node, Value
from compiler.merge.apply import site
from compiler.merge.attempt import Attempt, Outcome, Refusal
from compiler.merge.emit import Step
from compiler.merge.path import Piece
from compiler.merge.regions import Regions


def attempts_of(
    regions: Regions, chain: list[Value], pieces: list[Piece], steps: dict[Piece, list[Step]]
) -> list[Attempt]:
    """Return what was merged on a chain, and for each cut why the two sides were not."""
    return [*_merged(regions, pieces, steps), *_struck(regions, chain), *_cuts(regions, pieces)]


def merged_attempt(regions: Regions, entry: Value, exit_: Value, steps: list[Step]) -> Attempt:
    """Return the attempt of a region that was emitted."""
    after = tuple(describe_step(s) for s in steps)
    cost = regions.price(steps, entry)
    return attempt(regions, entry, exit_, Outcome.MERGED, "one equal form, and cheaper", "", after, cost)


def attempt(
    regions: Regions,
    entry: Value,
    exit_: Value,
    outcome: Outcome,
    reason: str,
    node: str,
    after: tuple[str, ...],
    cost_after: float,
) -> Attempt:
    """Return an attempt on the region `entry -> exit_`."""
    names = tuple(v.node for v in regions.affine.between(entry, exit_))
    before = tuple(describe(regions.graph, regions.graph.node(n)) for n in names)
    cost_before = sum(map(regions.cost, regions.replaced(entry, exit_)))
    where = site(regions.graph, list(names))
    return Attempt(
        where, entry.node, exit_.node, names, outcome, reason, node, before, after, cost_before, cost_after
    )


def describe(graph: Graph, node: Node) -> str:
    """Return a short name of a node: `conv2d 3x3 s2 g48`, `batch_norm`, `add`."""
    weight = graph.constant(node.operand("weight"))
    return _short(node.op, weight, node.operand("stride"), node.operand("groups"))


def describe_step(step: Step) -> str:
    """Return a short name of an emitted operation."""
    get = step.operands.get
    return _short(step.op, get("weight"), get("stride"), get("groups"))


def _short(op: str, weight: object, stride: object, groups: object) -> str:
    name = op.split(".")[1]
    if not name.startswith("conv") or not isinstance(weight, torch.Tensor):
        return name
    parts = [name, "x".join(map(str, weight.shape[2:]))]
    if isinstance(stride, tuple) and any(s != 1 for s in stride):
        parts.append(f"s{'x'.join(map(str, stride)) if len(set(stride)) > 1 else stride[0]}")
    return " ".join([*parts, *([f"g{groups}"] if groups != 1 else [])])


def _merged(
    regions: Regions, pieces: list[Piece] | tuple[Piece, ...], steps: dict[Piece, list[Step]]
) -> Iterator[Attempt]:
    for piece in pieces:
        yield from _merged(regions, piece.inner, steps)
        if piece.emitted:
            yield merged_attempt(regions, piece.entry, piece.exit, steps[piece])
        elif piece.inner:
            yield from _reason(regions, piece.entry, piece.exit, piece.cost)


def _struck(regions: Regions, chain: list[Value]) -> Iterator[Attempt]:
    """Yield the pieces of this chain that real weights showed to be unequal."""
    members = set(chain)
    for (entry, exit_), refusal in regions.struck.items():
        if entry in members and exit_ in members:
            yield attempt(regions, entry, exit_, Outcome.REFUSED, refusal.reason, refusal.node, (), 0.0)


def _cuts(regions: Regions, pieces: list[Piece]) -> Iterator[Attempt]:
    for left, right in pairwise(pieces):
        if (left.entry, right.exit) not in regions.struck:
            yield from _reason(regions, left.entry, right.exit, left.cost + right.cost)


def _reason(regions: Regions, entry: Value, exit_: Value, chosen: float) -> Iterator[Attempt]:
    """Yield why a region was not emitted as one: refused, or dearer than the `chosen` cut."""
    try:
        cost = regions.emitted(entry, exit_)
        after = tuple(describe_step(s) for s in regions.steps(entry, exit_, weights=False))
    except Refusal as refusal:
        yield attempt(regions, entry, exit_, Outcome.REFUSED, refusal.reason, refusal.node, (), 0.0)
        return
    reason = (
        f"legal, but as one operation it costs {cost / max(chosen, 1.0):.2f} times the cut that was chosen "
        "(roofline prior, not a measurement)"
    )
    yield attempt(regions, entry, exit_, Outcome.KEPT, reason, exit_.node, after, cost)
