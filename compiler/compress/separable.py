r"""A k x k convolution as a k x 1 and a 1 x k one.

Depthwise, each channel's kernel is a k x k matrix: its SVD cut at rank R gives R columns and R rows,

    :math:`w_c \approx \sum_{r \le R} \sigma_r u_r v_r^\top`

as a depthwise k x 1 convolution to R channels a channel and a grouped 1 x k that adds them up. Rank k is
exact; R pays below k / 2. Dense, the kernel is the matrix [(in, row), (out, column)], cut at rank M: a
k x 1 convolution to M channels, then a 1 x k to all; M pays where M (k in + k out) < k^2 in out. Zero
fill is split with the axes, which is exact: what lies outside is zero on either way.

Where samples tell enough, the second convolution is then fitted to the layer's own output
(`compiler.compress.convolution_fit`). Source: a-priori compression by one-way filters; the post-training
form is the classical SVD of Jaderberg et al., arXiv 1405.3866.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from compiler.compress.convolution_fit import Convolution, fitted
from compiler.compress.decision import Offer, Setting
from compiler.compress.emit_convolutions import convolution_of, put
from compiler.compress.observe import observed, positions
from compiler.compress.sites import accepted, layers, number, weight_shape
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node

METHOD = "separable"
SHARES = (0.75, 0.5, 0.35)  # of the rank at which a dense pair costs what the layer does
LEAST = 3  # the smallest kernel that two passes can be cheaper than


def offers(graph: Graph, setting: Setting) -> tuple[Offer, ...]:
    """Return the convolutions with a kernel of at least 3 x 3 and ranks that cost less, mildest first."""
    found = ((site, node, _ranks(graph, node, setting.step)) for site, node in layers(graph).items())
    return tuple(
        Offer(site, tuple(f"rank:{r}" for r in ranks), frozenset({node.name}))
        for site, node, ranks in found
        if ranks
    )


def apply(graph: Graph, choices: Mapping[str, str], setting: Setting) -> Graph:
    """Return the graph with each chosen convolution as two; the second keeps the name."""
    chosen = accepted(METHOD, choices, offers(graph, setting))
    found, editor = layers(graph), Editor(graph)
    for site, option in chosen.items():
        node = found[site]
        first, second = split(convolution_of(graph, node), number(option))
        read = node.operand("input")
        pairs = (
            (first(v[read]), v[node.value]) for v in observed(graph, [read, node.value], setting.samples)
        )
        count = positions(graph, node.value, 1, len(setting.samples))
        put(editor, node, (first, fitted(second, pairs, count)))
    return editor.finish() if chosen else graph


def split(conv: Convolution, rank: int) -> tuple[Convolution, Convolution]:
    """Return the column and the row convolution of a rank: a channel's where depthwise, else in all."""
    weight, (s0, s1), (p0, p1), (d0, d1) = conv.weight, conv.stride, conv.padding, conv.dilation
    groups = conv.groups
    outputs, inputs, high, wide = weight.shape
    if groups > 1:
        u, s, v = torch.linalg.svd(weight[:, 0])
        size = s[:, :rank].sqrt()
        columns = (u[:, :, :rank] * size[:, None]).transpose(1, 2).reshape(outputs * rank, 1, high, 1)
        across = (v[:, :rank] * size[..., None]).reshape(outputs, rank, 1, wide)
    else:
        matrix = weight.permute(1, 2, 0, 3).reshape(inputs * high, outputs * wide)
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        size = s[:rank].sqrt()
        columns = (u[:, :rank] * size).T.reshape(rank, inputs, high, 1)
        across = (v[:rank] * size[:, None]).reshape(rank, outputs, 1, wide).transpose(0, 1)
    first = Convolution(columns, columns.new_zeros(len(columns)), (s0, 1), (p0, 0), (d0, 1), groups)
    return first, Convolution(across.contiguous(), conv.bias, (1, s1), (0, p1), (1, d1), groups)


def _ranks(graph: Graph, node: Node, step: int) -> list[int]:
    shape = weight_shape(graph, node)
    if len(shape) != 4 or node.type.rank != 4 or min(shape[2:]) < LEAST or not _known_sides(graph, node):
        return []
    outputs, inputs, high, wide = shape
    groups = node.operand("groups")
    if groups > 1:
        pays = [r for r in range(1, max(high, wide)) if r * (high + wide) < high * wide]
        return sorted(pays, reverse=True) if inputs == 1 and outputs == groups else []
    even = high * wide * inputs * outputs / (high * inputs + wide * outputs)
    return sorted({int(share * even) // step * step for share in SHARES} - {0}, reverse=True)


def _known_sides(graph: Graph, node: Node) -> bool:
    return all(isinstance(d, int) for d in graph.type_of(node.operand("input")).shape[1:])
