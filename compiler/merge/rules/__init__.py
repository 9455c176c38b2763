"""The affine operations, by what they do to a form: each file states its own `RULES`."""

from compiler.merge.affine_ops import Rule
from compiler.merge.rules import (
    channelwise,
    commuting,
    expansion,
    movement,
    padding,
    products,
    spatial,
    spectral,
    sums,
)

RULES: dict[str, Rule] = {
    **channelwise.RULES,
    **commuting.RULES,
    **expansion.RULES,
    **movement.RULES,
    **padding.RULES,
    **products.RULES,
    **spatial.RULES,
    **spectral.RULES,
    **sums.RULES,
}
