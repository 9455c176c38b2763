r"""GPTQ: weights are rounded one input after the other, and each error is made good by the inputs to come.

With H the second moments of a layer's inputs and U the upper Cholesky factor of :math:`H^{-1}`
(:math:`U^\top U = H^{-1}`), for each input i in order

    :math:`q_i = \mathrm{round}(w_i), \qquad e = (w_i - q_i) / U_{ii}, \qquad
    w_j \leftarrow w_j - e\, U_{ij} \quad (j > i)`

which lowers :math:`\|W X - Q X\|`. Where the inputs are uncorrelated U is diagonal, nothing is passed
on, and the result is rounding to the nearest. H is damped by 1% of its mean diagonal. Source: Frantar
et al., arXiv 2210.17323. Layers are gone through in order, each behind those that are rounded already.

The largest weight of each channel or group is put at the end of the grid, whatever it was passed, so
that the target's quantizer finds the same scale and the same codes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from compiler.compress.track import Track
from compiler.compress.weight_grid import Grid
from compiler.compress.weights import input_rows, renew, weighted
from compiler.errors import UsageError
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node
from compiler.ir.verify import verify

DAMPING = 0.01


def gptq(
    graph: Graph, names: Collection[str], samples: Sequence[Sequence[torch.Tensor]], grid: Grid
) -> Graph:
    """Return the graph with the weights of the named operations on a grid, chosen to keep their outputs.

    The named are linear layers and convolutions of one group, float, with a stored weight; others are
    left. Raises UsageError without samples, and where the groups of the grid do not fill a row.
    """
    if not samples:
        raise UsageError("GPTQ reads each layer's inputs: give at least one calibration sample")
    editor, track = Editor(graph), Track(graph, samples)
    for node in graph.ops():
        if node.name in names and roundable(graph, node):
            weight = graph.constant(node.operand("weight"))
            assert weight is not None
            hessian = second_moments(node, track.read(node.operand("input")), weight)
            rounded = compensated(weight.flatten(1), hessian, grid).reshape(weight.shape)
            track.run(renew(editor, node, {"weight": rounded}, track))
        else:
            track.run(node)
    result = editor.finish()
    verify(result)
    return result


def roundable(graph: Graph, node: Node) -> bool:
    """Tell whether an operation multiplies rows of inputs by a float weight."""
    plain = weighted(graph, node) and graph.constant(node.operand("weight")) is not None
    return plain and node.operand("groups", 1) == 1


def second_moments(node: Node, inputs: Sequence[torch.Tensor], weight: torch.Tensor) -> torch.Tensor:
    """Return the sum of outer products of what the rows of a weight are multiplied with, in float64."""
    width = weight.flatten(1).shape[1]
    total = torch.zeros(width, width, dtype=torch.float64)
    for tensor in inputs:
        rows = input_rows(node, tensor, tuple(weight.shape[2:])).double()
        total += rows.T @ rows
    return total


def compensated(
    weight: torch.Tensor, hessian: torch.Tensor, grid: Grid, damping: float = DAMPING
) -> torch.Tensor:
    """Return a weight [out, in] on the grid, each rounding error passed on to the inputs behind it.

    `hessian` [in, in] holds the second moments of the inputs, by any common factor.
    """
    scales, pinned, ends = grid.scales(weight), grid.peaks(weight), weight.sign() * grid.top
    upper = _upper(hessian, damping)
    work, codes = weight.double(), torch.zeros_like(weight)
    for i in range(weight.shape[1]):
        column = work[:, i]
        nearest = grid.codes(column, scales[:, i].double())
        code = torch.where(pinned[:, i], ends[:, i].double(), nearest)
        codes[:, i] = code.to(weight.dtype)
        error = (column - code * scales[:, i]) / upper[i, i]
        work[:, i + 1 :] -= error[:, None] * upper[i, i + 1 :]
    return codes * scales


def _upper(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """Return U with U^T U the damped inverse; an input that is always zero passes nothing on."""
    mean = float(hessian.diagonal().mean()) or 1.0
    damped = hessian + damping * mean * torch.eye(len(hessian), dtype=hessian.dtype)
    lower = torch.linalg.cholesky(damped)
    inverse: torch.Tensor = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
    return inverse
