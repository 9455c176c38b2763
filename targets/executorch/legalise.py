"""Rewrites a graph into equal operations that XNNPACK takes, before the SDK sees it.

Each form is exact over the reals and only touches what would be slower or wrong otherwise; why, its
own file says. `benchmarks/legal_forms.py` prints what those buy that are more than another spelling.
First come the forms of whole parts of a graph, in order, then a rule for each operation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from compiler.errors import UsageError
from compiler.ir.graph import Graph
from targets.executorch.forms import arithmetic, attention, norms, pools, shapes
from targets.executorch.forms.channels import channels_first
from targets.executorch.forms.turns import turns
from targets.norms import group_norm
from targets.resizes import SMOOTH, smooth
from targets.rewriting import Rule, rewrite


def legalise(graph: Graph, without: Collection[str] = ()) -> Graph:
    """Return an equal graph in the operations XNNPACK takes; the same graph where nothing applies.

    `without` names parts and operations whose forms are left out, to measure what they buy; raises
    UsageError for one that there is not.
    """
    if unknown := set(without) - {name for name, _ in PARTS} - RULES.keys():
        raise UsageError(f"there is no form called {', '.join(sorted(unknown))}")
    for name, form in PARTS:
        graph = graph if name in without else form(graph)
    return rewrite(graph, {op: rule for op, rule in RULES.items() if op not in without})


PARTS: tuple[tuple[str, Callable[[Graph], Graph]], ...] = (
    ("channels_first", channels_first),
    ("turns", turns),
)
RULES: Mapping[str, Rule] = {
    "aten.batch_norm.default": norms.batch_norm,
    "aten.layer_norm.default": norms.layer_norm,
    "aten.group_norm.default": group_norm,
    "aten.mean.dim": pools.mean,
    "aten.adaptive_avg_pool2d.default": pools.global_pool,
    "aten.avg_pool2d.default": pools.pool,
    "aten.max_pool2d.default": pools.pool,
    "aten.scaled_dot_product_attention.default": attention.attention,
    "aten.add.Tensor": arithmetic.number,
    "aten.sub.Tensor": arithmetic.number,
    "aten.mul.Tensor": arithmetic.number,
    "aten.div.Tensor": arithmetic.number,
    "aten.rsub.Scalar": arithmetic.subtract_from,
    "aten.reciprocal.default": arithmetic.reciprocal,
    "aten.gelu.default": arithmetic.gelu,
    "aten.hardsigmoid.default": arithmetic.hardsigmoid,
    "aten.matmul.default": shapes.matmul,
    "aten.softmax.int": shapes.softmax,
    "aten._softmax.default": shapes.softmax,
    "aten.unbind.int": shapes.unbind,
    "aten.select.int": shapes.select,
    "aten.squeeze.default": shapes.reshaped,
    "aten.squeeze.dim": shapes.reshaped,
    "aten.squeeze.dims": shapes.reshaped,
    "aten.unsqueeze.default": shapes.reshaped,
    **dict.fromkeys(SMOOTH, smooth),
}
