r"""A linear weight as a sum of Kronecker products: fewer bytes, never less time.

With the outputs :math:`o = o_1 o_2` and the inputs :math:`i = i_1 i_2`, the weight is reordered to
:math:`M[(o_1 i_1), (o_2 i_2)]` and its SVD cut at the bond :math:`\chi`,

    :math:`W \approx \sum_{\chi} A_\chi \otimes B_\chi`, squared error
    :math:`\sum_{j > \chi} \sigma_j^2`, stored numbers :math:`\chi (o_1 i_1 + o_2 i_2)`

Bytes and multiply-accumulates part ways: applied factor by factor it pays for very small bonds only
(below :math:`o\,i / (o_2 i_1 (i_2 + o_1))`, which for 4096 = 64 x 64 is 32, where bytes pay to 2048). So
the weight is always rebuilt: the graph holds the two factors and the product that makes the weight. A
runtime that computes weight-only operations when it loads a program stores the factors
(`compiler.passes.load_time`); folded, the product is the plain weight again. The options matter where
bytes are limited, and the time is that of the layer as it was.

Source: CompactifAI, arXiv 2401.14109, at two sites.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from compiler.compress.decision import Offer, Setting
from compiler.compress.sites import LINEAR, accepted, layers, number, weight_of, weight_shape
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, TensorType, Value

METHOD = "mpo"
SHARES = (0.5, 0.3, 0.2)  # of the bytes of the layer; fewer than a third is what loading factors asks for
LEAST_BYTES = 1 << 16  # of a weight; a smaller one is not worth an operation at load


@dataclass(frozen=True)
class Factors:
    """`left` [o1, i1, bond] and `right` [bond, o2, i2] of a weight [o1 o2, i1 i2]."""

    left: torch.Tensor
    right: torch.Tensor
    error: float

    @property
    def weight(self) -> torch.Tensor:
        """The weight that the factors stand for."""
        o1, i1, _ = self.left.shape
        _, o2, i2 = self.right.shape
        return torch.einsum("aib,bcj->acij", self.left, self.right).reshape(o1 * o2, i1 * i2)


def offers(graph: Graph, setting: Setting) -> tuple[Offer, ...]:
    """Return the large linear layers whose weight nothing else reads, with bonds that store less.

    None where bytes are not limited: it saves no time.
    """
    if not setting.bytes_limited:
        return ()
    found = ((site, node, _bonds(graph, node)) for site, node in layers(graph).items())
    return tuple(
        Offer(site, tuple(f"bond:{b}" for b in bonds), frozenset({node.name}))
        for site, node, bonds in found
        if bonds
    )


def apply(graph: Graph, choices: Mapping[str, str], setting: Setting) -> Graph:
    """Return the graph with each chosen weight made from its factors."""
    chosen = accepted(METHOD, choices, offers(graph, replace(setting, bytes_limited=True)))
    found, editor = layers(graph), Editor(graph)
    for site, option in chosen.items():
        _emit(editor, found[site], factored(weight_of(graph, found[site]), number(option)))
    return editor.finish() if chosen else graph


def factored(weight: torch.Tensor, bond: int) -> Factors:
    """Return the best factors of a bond for a weight [out, in], with the root of the squared error."""
    (o1, o2), (i1, i2) = (halves(n) for n in weight.shape)
    matrix = weight.reshape(o1, o2, i1, i2).permute(0, 2, 1, 3).reshape(o1 * i1, o2 * i2)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    size = s[:bond].sqrt()
    left, right = (u[:, :bond] * size).reshape(o1, i1, -1), (v[:bond] * size[:, None]).reshape(-1, o2, i2)
    return Factors(left, right, float(s[bond:].square().sum().sqrt()))


def halves(number: int) -> tuple[int, int]:
    """Return the two factors of a number that are nearest to each other, the smaller first."""
    small = next(n for n in range(math.isqrt(number), 0, -1) if number % n == 0)
    return small, number // small


def stored(shape: tuple[int, ...], bond: int) -> int:
    """Return the numbers that the factors of a weight of this shape hold."""
    (o1, o2), (i1, i2) = (halves(n) for n in shape)
    return bond * (o1 * i1 + o2 * i2)


def _bonds(graph: Graph, node: Node) -> list[int]:
    if node.op != LINEAR or len(graph.uses(node.operand("weight"))) > 1:
        return []
    shape = weight_shape(graph, node)
    if graph.type_of(node.operand("weight")).bytes() < LEAST_BYTES:
        return []
    bonds = {int(share * math.prod(shape) / stored(shape, 1)) for share in SHARES}
    return sorted(bonds - {0}, reverse=True)


def _emit(editor: Editor, node: Node, factors: Factors) -> None:
    old: Value = node.operand("weight")
    type_ = editor.graph.type_of(old)
    origin = editor.graph.node(old.node).origin
    (o1, i1, bond), (_, o2, i2) = factors.left.shape, factors.right.shape
    left, right = (
        editor.constant(
            tensor.to(type_.dtype).contiguous(), f"{old.node}_{part}", f"{origin}.{part}", node.name
        )
        for tensor, part in (
            (factors.left.reshape(o1 * i1, bond), "left"),
            (factors.right.reshape(bond, o2 * i2), "right"),
        )
    )

    def made(op: str, operands: dict[str, object], *shape: int) -> Value:
        place = f"{node.origin or 'model'}.weight"
        types = [TensorType(shape, type_.dtype)]
        return editor.op(f"aten.{op}", operands, types, f"{old.node}_{op[:2]}", place, node.source, node.name)

    product = made("mm.default", {"self": left, "mat2": right}, o1 * i1, o2 * i2)
    apart = made("reshape.default", {"self": product, "shape": (o1, i1, o2, i2)}, o1, i1, o2, i2)
    turned = made("permute.default", {"self": apart, "dims": (0, 2, 1, 3)}, o1, o2, i1, i2)
    weight = made("reshape.default", {"self": turned, "shape": type_.shape}, o1 * o2, i1 * i2)
    operands = tuple((key, weight if key == "weight" else o) for key, o in node.operands)
    editor.update(replace(node, operands=operands))
    editor.remove_unread([old.node])
