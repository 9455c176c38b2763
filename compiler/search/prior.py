"""What a variant is expected to take before it is measured, by a roofline that says it is a prior.

Operations that both graphs have cancel. Of the others the prior prices what the variant runs against
what the base ran, in multiples of the base's own price:

    departure = (sum_{changed, variant} cost - sum_{changed, base} cost) / sum_{base} cost

and no kernel can save more than the time its base takes less max(MACs / peak, bytes / bandwidth) of what
replaces it (Lavin, "On the efficiency of convnets": the bound leaves out what starting a kernel costs).
An int8 operation moves a quarter of the bytes and multiplies `INT8_RATE` times as fast; the quantise and
dequantise that a runtime fuses into it cost nothing, any other one moves its values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from compiler.compress.quantize import NAMESPACE, quantized_nodes
from compiler.cost.counts import FREE, Counts, node_counts
from compiler.cost.roofline import Roofline
from compiler.ir.graph import Graph, Kind, Node
from compiler.search.experiments import Outlook

INT8_RATE = 2.0  # of multiply-accumulates in int8 over float32, hardly less on any core


def outlook(base: Graph, variant: Graph, prior: Roofline) -> Outlook:
    """Return what a variant of a float graph is expected to take, over what the float graph does."""
    int8 = quantized_nodes(variant)
    gone = [n for n in base.ops() if n.name not in variant or variant.node(n.name) != n]
    new = [n for n in variant.ops() if n.name not in base or base.node(n.name) != n]
    counted = [c for n in new if (c := _counts(variant, n, int8)) is not None]
    before = sum(prior.cost(node_counts(base, n)) for n in gone)
    after = sum(map(prior.cost, counted))
    ideal = sum(map(dataclasses.replace(prior, launch_macs=0.0).cost, counted))
    whole = prior.total(base, base.ops()) or 1.0
    return Outlook((after - before) / whole, (before - ideal) / whole)


def price_by_node(graph: Graph, prior: Roofline, names: Iterable[str]) -> float:
    """Return the price of some of a float graph's operations."""
    return prior.total(graph, [graph.node(name) for name in names])


def _counts(graph: Graph, node: Node, int8: frozenset[str]) -> Counts | None:
    """Return what a node counts, None where it is free or fused into an int8 operation."""
    if node.op in FREE:
        return None
    if node.op.startswith(NAMESPACE):
        near = [v.node for _, v in node.values()] if "dequantize" not in node.op else []
        near += [u.name for u in graph.users(node.name)] if "dequantize" in node.op else []
        stored = all(graph.node(v.node).kind is Kind.CONSTANT for _, v in node.values())
        return None if stored or any(n in int8 for n in near) else node_counts(graph, node)
    found = node_counts(graph, node)
    if node.name not in int8:
        return found
    return Counts(found.macs / INT8_RATE, found.bytes / 4, found.taps)
