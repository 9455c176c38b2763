r"""How what a plan puts in int8 or int4 is rounded: `model  rounding  STEP+STEP`.

    equalize       int8: channels of two layers in a row share their ranges                  (REAL)
    smooth_quant   int8: outliers of activations are moved into the weights that read them   (REAL)
    gptq           int8: weights are put on the grid, each error made good by the next input
    awq            int4: inputs that matter get a finer grid, 1/s in the layer before        (REAL)
    int4_gptq      int4: as gptq, on the grid of int4

What is equal over the reals is done to the merged float graph, before its structure changes and before
ranges are read, so that every later step has layers of the same scale to compare with. A weight is put
on the grid only where it is read in that precision; what stays float keeps it. None of it costs time on
a device. What moves the constants of a graph that is quantized already is healing
(`compiler.compress.heal`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from compiler.compress.awq import awq
from compiler.compress.decision import Sample
from compiler.compress.equalize import equalize, pairs
from compiler.compress.gptq import gptq, roundable
from compiler.compress.quantize_int4 import GRID, int4_able
from compiler.compress.smooth_quant import joints, smooth
from compiler.compress.weight_grid import Grid
from compiler.errors import UsageError
from compiler.ir.graph import Graph
from compiler.plan import Decision, Plan
from compiler.target import INT4, INT8

ROUNDING = "rounding"
SITE = "model"

Steps = tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """A step by name, of one precision; `real` where it leaves the float graph's function as it is.

    `able` tells whether there is anything to do in a graph for the operations that are to be in it.
    """

    name: str
    precision: str
    real: bool
    able: Callable[[Graph, Collection[str]], bool]
    run: Callable[[Graph, Collection[str], Sequence[Sample]], Graph]


STEPS: tuple[Step, ...] = (
    Step("equalize", INT8, True, lambda g, _: bool(pairs(g)), lambda g, _, __: equalize(g)),
    Step("smooth_quant", INT8, True, lambda g, _: bool(joints(g)), lambda g, _, samples: smooth(g, samples)),
    Step(
        "gptq",
        INT8,
        False,
        lambda g, names: any(roundable(g, g.node(n)) for n in names),
        lambda g, names, samples: gptq(g, names, samples, Grid()),
    ),
    Step(
        "awq",
        INT4,
        True,
        lambda g, _: any(int4_able(g).issuperset(j.readers) for j in joints(g)),
        lambda g, _, samples: awq(g, int4_able(g), samples, GRID)[0],
    ),
    Step(
        "int4_gptq",
        INT4,
        False,
        lambda g, names: bool(int4_able(g) & frozenset(names)),
        lambda g, names, samples: gptq(g, int4_able(g) & frozenset(names), samples, GRID),
    ),
)


def steps_of(plan: Plan) -> Steps:
    """Return the names of a plan's rounding steps, in order."""
    option = plan.option(SITE, ROUNDING)
    return () if option is None else tuple(option.split("+"))


def rounding(steps: Steps) -> tuple[Decision, ...]:
    """Return the decision for steps, none where there are none."""
    return (Decision(SITE, ROUNDING, "+".join(steps)),) if steps else ()


def real(steps: Steps) -> Steps:
    """Return those of some steps that are equal over the reals."""
    return tuple(step.name for step in STEPS if step.real and step.name in steps)


def by_precision(steps: Steps) -> dict[str, Steps]:
    """Return some steps by the precision they are of; unknown ones are left out."""
    found: dict[str, Steps] = {}
    for step in STEPS:
        if step.name in steps:
            found[step.precision] = (*found.get(step.precision, ()), step.name)
    return found


def shaping(steps: Steps, precision: str) -> Steps:
    """Return those of some steps that decide what a precision makes of a graph: its own, and real ones."""
    return tuple(s.name for s in STEPS if s.name in steps and (s.real or s.precision == precision))


def able(graph: Graph, names: Collection[str], precision: str = INT8) -> Steps:
    """Return the steps that have something to do where the named operations are to be in a precision."""
    return tuple(s.name for s in STEPS if s.precision == precision and s.able(graph, names))


def levelled(graph: Graph, steps: Steps, samples: Sequence[Sample]) -> Graph:
    """Return the merged float graph behind those of a plan's steps that are equal over the reals.

    A step that finds nothing to do is left out. Raises UsageError for a step there is not.
    """
    known = [step.name for step in STEPS]
    for name in steps:
        if name not in known:
            raise UsageError(f"the plan rounds by {name!r}; steps are: {', '.join(known)}")
    return _run(graph, [s for s in STEPS if s.name in steps and s.real], (), samples)


def gridded(
    graph: Graph, steps: Steps, names: Collection[str], samples: Sequence[Sample], precision: str = INT8
) -> Graph:
    """Return the graph that a precision is made from: the weights of the named operations on its grid."""
    mine = [s for s in STEPS if s.name in steps and not s.real and s.precision == precision]
    return _run(graph, mine, names, samples)


def _run(graph: Graph, steps: Sequence[Step], names: Collection[str], samples: Sequence[Sample]) -> Graph:
    for step in steps:
        graph = step.run(graph, names, samples) if step.able(graph, names) else graph
    return graph
