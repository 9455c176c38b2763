r"""AWQ: before rounding, inputs that matter are given a finer grid, by as much as measured best.

For a scale s of each input, the weights are going to become

    :math:`\hat W = Q(W \,\mathrm{diag}(s)) \,\mathrm{diag}(s)^{-1}, \qquad
    s_j = \overline{|x_j|}^{\,a}, \quad a \in \{0, \tfrac1{20}, \dots, \tfrac{19}{20}\}`

with the one a that gives the least output error on the samples; a = 0 is rounding to the nearest, so the
chosen one is never worse there. :math:`1 / s` goes into the norm or the layer before, as SmoothQuant's
does, for all readers of a value at once. Source: Lin et al., arXiv 2306.00978; the exponents beyond the
best lose quickly, so the grid of exponents is no option.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from compiler.compress.smooth_quant import Joint, divide_source, joints
from compiler.compress.track import Track
from compiler.compress.weight_grid import Grid
from compiler.compress.weights import renew
from compiler.errors import UsageError
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node
from compiler.ir.verify import verify

EXPONENTS = tuple(i / 20 for i in range(20))


@dataclass(frozen=True)
class Choice:
    """What was chosen at one value: the exponent, its output error and that of rounding to the nearest.

    Errors are sums of squares over the samples and all readers.
    """

    exponent: float
    error: float
    nearest: float


def awq(
    graph: Graph, names: Collection[str], samples: Sequence[Sequence[torch.Tensor]], grid: Grid
) -> tuple[Graph, dict[str, Choice]]:
    """Return the graph with its weights scaled for a grid, and what was chosen, by the source of each joint.

    The function stays (REAL): the weights are not rounded yet, so that it may be to the nearest or by
    GPTQ. A joint of `compiler.compress.smooth_quant` is taken where all its readers are named; other named
    layers are left. Raises UsageError without samples, and where groups do not fill a row.
    """
    if not samples:
        raise UsageError("AWQ reads activations: give at least one calibration sample")
    editor, track = Editor(graph), Track(graph, samples)
    found = {j.value.node: j for j in joints(graph) if set(j.readers) <= set(names)}
    choices: dict[str, Choice] = {}
    for node in graph.ops():
        track.reach(node.name)  # of the float graph: scales that move change none of its values
        if node.name in found:
            joint = found[node.name]
            x = torch.cat([t.reshape(-1, t.shape[-1]) for t in track.read(joint.value)]).double()
            choices[joint.source] = _scale(editor, joint, x, grid)
    result = editor.finish()
    verify(result)
    return result, choices


def scales(inputs: torch.Tensor, exponent: float) -> torch.Tensor:
    """Return s of each input for rows [positions, in], their geometric middle at 1."""
    mean = inputs.abs().mean(0)
    s = mean.clamp_min(1e-4 * float(mean.max()) or 1.0) ** exponent
    return s / (s.max() * s.min()).sqrt()


def search(weights: Sequence[torch.Tensor], inputs: torch.Tensor, grid: Grid) -> Choice:
    """Return the best exponent for weights [out, in] that read the same rows."""
    gram = inputs.T @ inputs
    errors = [_error(weights, gram, scales(inputs, a), grid) for a in EXPONENTS]
    best = min(range(len(errors)), key=errors.__getitem__)
    return Choice(EXPONENTS[best], errors[best], errors[0])


def _error(weights: Sequence[torch.Tensor], gram: torch.Tensor, scale: torch.Tensor, grid: Grid) -> float:
    lost = [(grid.nearest(w * scale) / scale - w) for w in weights]
    return float(sum(((d @ gram) * d).sum() for d in lost))


def _scale(editor: Editor, joint: Joint, inputs: torch.Tensor, grid: Grid) -> Choice:
    readers = [editor.graph.node(name) for name in joint.readers]
    weights = [_weight(editor.graph, node) for node in readers]
    choice = search([w.double() for w in weights], inputs, grid)
    scale = scales(inputs, choice.exponent)
    if choice.exponent:
        divide_source(editor, joint.source, scale, weights[0].dtype)
    for node, weight in zip(readers, weights, strict=True):
        renew(editor, node, {"weight": (weight.double() * scale).to(weight.dtype)})
    return choice


def _weight(graph: Graph, node: Node) -> torch.Tensor:
    found = graph.constant(node.operand("weight"))
    assert found is not None, f"the weight of {node.name!r} is no constant"
    return found
