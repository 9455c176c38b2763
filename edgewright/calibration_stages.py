"""What a calibration measures, stage by stage: a stage says which kernels a graph needs, given a table.

    merge      the forms of the open merges, then those choices as whole programs
    latency    the kernels that the merged graph runs as, its pairs that may be fused, and all of it
    precision  the merged graph's calls in int8
    width      the merged graph's calls at fewer channels

The last three ask about the graph that the table's merges make, so they come behind the first. With a
budget all are one stage: what is worth most is measured first, whatever it is for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from compiler.compress.kernel_choices import precision_choices, width_choices
from compiler.cost.choices import Choice
from compiler.cost.counts import FREE
from compiler.cost.fusion import pairs
from compiler.cost.kernel import Kernel, kernel_of
from compiler.cost.latency_table import LatencyTable
from compiler.cost.program import WholeProgram
from compiler.cost.roofline import PRIOR, Roofline
from compiler.errors import UsageError
from compiler.ir.graph import Graph
from compiler.merge.whole import merge

Choose = Callable[[Graph, LatencyTable | None], tuple[Kernel, ...]]

MERGE, LATENCY, PRECISION, WIDTH = DECISIONS = ("merge", "latency", "precision", "width")


def check_decisions(decide: Collection[str]) -> None:
    """Raise UsageError for a decision that there is not, or for none."""
    unknown = sorted(set(decide) - set(DECISIONS))
    if unknown or not decide:
        named = f"{unknown[0]!r} is no decision" if unknown else "no decision is named"
        raise UsageError(f"{named}; calibrate decides {', '.join(DECISIONS)}")


@dataclass(frozen=True)
class Needs:
    """What decisions on graphs need for a target: its `prior` and its `precisions`.

    Graphs whose sizes are known only at run time are no programs, and have only their merges measured.
    """

    decide: Collection[str] = (MERGE,)
    prior: Roofline = PRIOR
    precisions: Collection[str] = ()
    remembered: dict[tuple[int, int], tuple[Graph, LatencyTable | None, Graph]] = field(default_factory=dict)

    def stages(self, budgeted: bool = False) -> tuple[Choose, ...]:
        """Return the stages in order; with a budget, one for all kernels and one for the whole programs."""
        found: list[Choose] = []
        if MERGE in self.decide:
            found += [self.of_merges, self.of_merged_programs]
        rest: list[Choose] = []
        if LATENCY in self.decide:
            rest.append(self.of_graph)
        if {PRECISION, WIDTH} & set(self.decide):
            rest.append(self.of_choices)
        programs: list[Choose] = [self.program] if LATENCY in self.decide else []
        if not budgeted:
            return (*found, *programs, *rest)
        merges = found[:1]
        return (_all([*merges, *rest]), *found[1:], *programs)

    def of_merges(self, graph: Graph, table: LatencyTable | None) -> tuple[Kernel, ...]:
        """Return the kernels of the open merges."""
        from compiler.merge.open_choices import open_kernels

        return open_kernels(graph, table, self.prior)

    def of_merged_programs(self, graph: Graph, table: LatencyTable | None) -> tuple[Kernel, ...]:
        """Return the whole programs between which the merge engine's last word is."""
        from compiler.merge.whole import whole_programs

        return whole_programs(graph, table, self.prior)

    def program(self, graph: Graph, table: LatencyTable | None) -> tuple[Kernel, ...]:
        """Return the merged graph as one program: what predictions are held against."""
        return () if graph.symbols else (WholeProgram(self.merged(graph, table)),)

    def of_graph(self, graph: Graph, table: LatencyTable | None) -> tuple[Kernel, ...]:
        """Return the kernels of the merged graph, and its pairs that a runtime may fuse."""
        if graph.symbols:
            return ()
        made = self.merged(graph, table)
        calls = (kernel_of(made, node) for node in made.ops() if node.op not in FREE)
        return tuple(dict.fromkeys((*calls, *pairs(made))))

    def of_choices(self, graph: Graph, table: LatencyTable | None) -> tuple[Kernel, ...]:
        """Return the kernels of the choices of precision and width."""
        if graph.symbols:
            return ()
        choices = self.compressions(self.merged(graph, table))
        return tuple(dict.fromkeys(k for choice in choices for o in choice.options for k in o.kernels))

    def choices(self, graph: Graph, table: LatencyTable | None) -> tuple[Choice, ...]:
        """Return all choices of a graph that are decided, by the table's merges."""
        from compiler.merge.open_choices import open_merges

        merges = open_merges(graph, table, self.prior) if MERGE in self.decide else ()
        return (*merges, *(self.compressions(self.merged(graph, table)) if not graph.symbols else ()))

    def compressions(self, merged: Graph) -> tuple[Choice, ...]:
        """Return a merged graph's choices of precision and width."""
        precision = precision_choices(merged, self.precisions) if PRECISION in self.decide else ()
        return (*precision, *(width_choices(merged) if WIDTH in self.decide else ()))

    def merged(self, graph: Graph, table: LatencyTable | None) -> Graph:
        """Return a graph as the merge engine leaves it by a table; remembered while the table stays."""
        key = id(graph), id(table)
        if key not in self.remembered:  # the arguments are kept, so that their ids stay theirs
            self.remembered[key] = graph, table, merge(graph, table, self.prior)[0]
        return self.remembered[key][2]


def _all(stages: Sequence[Choose]) -> Choose:
    def choose(graph: Graph, table: LatencyTable | None) -> tuple[Kernel, ...]:
        return tuple(dict.fromkeys(k for stage in stages for k in stage(graph, table)))

    return choose
