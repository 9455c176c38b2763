"""Where single layers are changed: each convolution or linear layer with weights of its own, by module path.

Layers that one module path names several times are told apart by their order: `blocks.0`, `blocks.0/2`.
What a method puts in front of a layer stands one level deeper in the path, so that it changes no number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import torch

from compiler.compress.decision import KEEP, Offer
from compiler.errors import UsageError
from compiler.ir.graph import Graph, Node

LINEAR = "aten.linear.default"
CONVOLUTIONS = ("aten.conv1d.default", "aten.conv2d.default")


def layers(graph: Graph) -> dict[str, Node]:
    """Return site -> layer, in topological order, for floating weights that are constants."""
    found: dict[str, Node] = {}
    seen: dict[str, int] = {}
    for node in graph.ops():
        if node.op == LINEAR or node.op in CONVOLUTIONS:
            path = re.split(r"[+,|#\s]", node.origin, maxsplit=1)[0] or "model"
            seen[path] = seen.get(path, 0) + 1
            if _own(graph, node):
                found[path if seen[path] == 1 else f"{path}/{seen[path]}"] = node
    return found


def weight_of(graph: Graph, node: Node) -> torch.Tensor:
    """Return a layer's weight in float64."""
    weight = graph.constant(node.operand("weight"))
    assert weight is not None
    return weight.double()


def weight_shape(graph: Graph, node: Node) -> tuple[int, ...]:
    """Return the shape of a layer's weight."""
    return tuple(int(d) for d in graph.type_of(node.operand("weight")).shape if isinstance(d, int))


def flat_shape(graph: Graph, node: Node) -> tuple[int, int]:
    """Return the outputs of a layer and the taps of one output."""
    first, *rest = weight_shape(graph, node)
    return first, math.prod(rest)


def bias_of(graph: Graph, node: Node) -> torch.Tensor:
    """Return a layer's bias in float64, zeros where it has none."""
    bias = graph.constant(node.operand("bias"))
    weight = weight_of(graph, node)
    return weight.new_zeros(len(weight)) if bias is None else bias.double()


def accepted(method: str, choices: Mapping[str, str], offered: Sequence[Offer]) -> dict[str, str]:
    """Return the choices that change something.

    Raises UsageError for a site or an option that is not among those offered.
    """
    options = {offer.site: offer.options for offer in offered}
    for site, option in choices.items():
        if site not in options:
            known = ", ".join(options) or "none"
            raise UsageError(f"{method} has no site {site!r} on this graph with this data; it has {known}")
        if option not in (KEEP, *options[site]):
            known = ", ".join((KEEP, *options[site]))
            raise UsageError(f"{method} has no option {option!r} at {site!r}; accepted: {known}")
    return {site: option for site, option in choices.items() if option != KEEP}


def number(option: str) -> int:
    """Return the number in an option such as `rank:8`."""
    return int(option.rpartition(":")[2])


def _own(graph: Graph, node: Node) -> bool:
    weight, bias = (graph.constant(node.operand(key)) for key in ("weight", "bias"))
    known = node.operand("bias") is None or bias is not None
    return known and weight is not None and weight.is_floating_point()
