r"""Large kernels cut to their centre: 5 x 5 to 3 x 3, and the rest fitted again.

The padding shrinks with the kernel, by dilation (k - k') / 2 on each side, so that every output stands
where it stood. What the ring gave is made up for by a least-squares fit of the centre to the layer's own
output (`compiler.compress.convolution_fit`). The norm of the ring, which Single-Path NAS thresholds,
decides nothing here: the cost is measured. Source: Stamoulis et al., arXiv 1904.02877.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from compiler.compress.convolution_fit import Convolution, fitted
from compiler.compress.decision import Offer, Setting
from compiler.compress.emit_convolutions import convolution_of, put
from compiler.compress.observe import observed, positions
from compiler.compress.sites import accepted, layers, weight_shape
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node

METHOD = "crop_kernel"
LEAST = 3
SMALLER = 2  # sizes offered below a layer's own


def offers(graph: Graph, setting: Setting) -> tuple[Offer, ...]:
    """Return the convolutions with an odd square kernel above 3 x 3, the greatest crop last."""
    found = ((site, node, _sizes(graph, node)) for site, node in layers(graph).items())
    return tuple(
        Offer(site, tuple(f"{k}x{k}" for k in sizes), frozenset({node.name}))
        for site, node, sizes in found
        if sizes
    )


def apply(graph: Graph, choices: Mapping[str, str], setting: Setting) -> Graph:
    """Return the graph with each chosen kernel cropped and fitted to the layer's own output."""
    chosen = accepted(METHOD, choices, offers(graph, setting))
    found, editor = layers(graph), Editor(graph)
    for site, option in chosen.items():
        node = found[site]
        read = node.operand("input")
        pairs = ((v[read], v[node.value]) for v in observed(graph, [read, node.value], setting.samples))
        start = cropped(convolution_of(graph, node), int(option.partition("x")[0]))
        put(editor, node, (fitted(start, pairs, positions(graph, node.value, 1, len(setting.samples))),))
    return editor.finish() if chosen else graph


def cropped(conv: Convolution, size: int) -> Convolution:
    """Return a convolution with the centre of the kernel, its outputs where they were."""
    ring = (conv.weight.shape[-1] - size) // 2
    centre = conv.weight[:, :, ring : ring + size, ring : ring + size]
    (p0, p1), (d0, d1) = conv.padding, conv.dilation
    return replace(conv, weight=centre, padding=(p0 - d0 * ring, p1 - d1 * ring))


def _sizes(graph: Graph, node: Node) -> list[int]:
    shape = weight_shape(graph, node)
    if len(shape) != 4 or node.type.rank != 4 or shape[2] != shape[3] or shape[2] % 2 == 0:
        return []
    room = [p // d for p, d in zip(node.operand("padding"), node.operand("dilation"), strict=True)]
    smaller = range(shape[2] - 2, LEAST - 1, -2)
    return [k for k in smaller if (shape[2] - k) // 2 <= min(room)][:SMALLER]
