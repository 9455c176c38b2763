r"""A plan's lossy decisions, applied to the merged graph: the one function that search and compile share.

    <site>             <structural method>  <option>
    <site>             branches             kept
    segment:<modules>  precision            float32 | float16 | int8 | int8_dynamic | int4
    model              rounding             <step>+<step>
    model              heal                 <healer>+<healer>

Branches that stay apart are first (`compiler.compress.keep_branches`), then weights are levelled where
int8 is rounded so (`compiler.compress.rounding`), then structure is changed (`compiler.compress.structure`);
healing comes last. Precision is chosen by the segments of the graph as it
was before, so that sites do not move with what else is chosen.

Every value's int8 range is read from the float model's own activations, so it does not depend on what
else is int8. The graph is therefore calibrated once, with all that can be int8, and a partial choice is
read off it: the float graph, in which the value :math:`x` on the edge from producer to consumer passes
through quantise and dequantise exactly where

    the producer is chosen and its output is quantised,  or
    the consumer is chosen and its inputs are quantised,

and the weights of chosen consumers are int8. `quantised_places` tells which operations the target's
quantizer quantises at the output and at the inputs. Values that share one scale in the all-int8
graph (a concatenation and its parts, a pooling and its input) keep sharing it.

`int8_dynamic` (`compiler.compress.quantize_dynamic`), `int4` (`compiler.compress.quantize_int4`) and
`float16` (`compiler.compress.half`) read no batches to be made, and are applied behind `int8`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from compiler.compress.decision import Setting
from compiler.compress.half import to_half
from compiler.compress.healing import HEAL, heal, healers_of
from compiler.compress.keep_branches import METHOD as BRANCHES
from compiler.compress.keep_branches import keep_branches, placed
from compiler.compress.quantize import NAMESPACE, Progress, ir_filter, quantize_int8, split
from compiler.compress.quantize_dynamic import quantize_dynamic
from compiler.compress.quantize_int4 import quantize_int4
from compiler.compress.rounding import ROUNDING, Steps, by_precision, gridded, levelled, steps_of
from compiler.compress.segments import Segment, carried, segments
from compiler.compress.structure import apply_structure, check_methods
from compiler.errors import UnsupportedModelError, UsageError
from compiler.export import export_graph
from compiler.ir.edit import Editor, with_values
from compiler.ir.graph import Graph, Kind, Node, Value
from compiler.ir.verify import verify
from compiler.merge.branches import Branches
from compiler.plan import Plan
from compiler.target import FLOAT, FLOAT16, INT4, INT8, INT8_DYNAMIC, Target, refuse_precision

METHOD = "precision"
PRECISIONS = (FLOAT, FLOAT16, INT8, INT8_DYNAMIC, INT4)

Quantizers = Callable[[Callable[[Any], bool]], Any]  # `Target.quantizer`


@dataclass(frozen=True)
class Calibrated:
    """A float graph, the same graph with all that can be int8 in int8, and where it is quantised.

    `inputs` and `outputs` name the operations that are quantised at their inputs and their output.
    """

    graph: Graph
    full: Graph
    inputs: frozenset[str]
    outputs: frozenset[str]


def apply_plan(
    graph: Graph,
    plan: Plan,
    target: Target,
    batches: Sequence[Sequence[torch.Tensor]],
    progress: Progress | None = None,
    donor: Graph | None = None,
    branches: Branches | None = None,
) -> Graph:
    """Return the graph with a plan's decisions applied; the graph itself where all is kept.

    Structure comes first, then precision by the segments of the graph as it was, then healing.

    Args:
        graph: the merged float graph the plan was made for.
        plan: decisions; sites it is silent on stay as they are, and float32.
        target: whose quantizer says what int8 means.
        batches: calibration batches, each the flat inputs of a call.
        progress: called with (samples done, samples in all) while calibrating.
        donor: a second, merged model of the same family, where the plan takes parts from one.
        branches: the sums that the merge folded, where the plan leaves some apart.

    Raises UsageError for a decision there is no such site, method or option for, and where int8 is
    asked for without batches; UnsupportedModelError where nothing chosen can be int8, and for a
    precision that the target does not have.
    """
    check_methods(plan, (METHOD, BRANCHES, ROUNDING, HEAL))
    merged, sites = graph, segments(graph) if plan.decisions else ()
    graph = keep_branches(merged, plan, branches)
    sites = placed(sites, merged, graph)
    for option in PRECISIONS[1:]:
        if nodes_in(sites, plan, option):
            refuse_precision(option, target.precisions, target.name)
    if (nodes_in(sites, plan) or healers_of(plan) or steps_of(plan)) and not batches:
        raise UsageError(
            "the plan quantizes, rounds or heals, which needs calibration batches: "
            "give --calibration data.py:batches"
        )
    _check_steps(sites, plan)
    samples = [sample for batch in batches for sample in split(graph, batch)]
    original = levelled(graph, steps_of(plan), samples)
    graph = apply_structure(original, plan, Setting(samples, donor=donor))
    sites = carried(sites, graph)
    static, dynamic, int4 = (nodes_in(sites, plan, option) for option in (INT8, INT8_DYNAMIC, INT4))
    if static:
        graph = choose(calibrate(graph, target.quantizer, samples, progress, steps_of(plan)), static)
    if dynamic:
        quantizer = target.quantizer(ir_filter(dynamic), INT8_DYNAMIC)
        graph = quantize_dynamic(graph, dynamic, quantizer, target.rounds_rows)
    if int4:
        graph = quantize_int4(gridded(graph, steps_of(plan), int4, samples, INT4), int4, target.rounds_rows)
    if half := nodes_in(sites, plan, FLOAT16):
        graph = to_half(graph, half)
    return heal(graph, original, healers_of(plan), samples)


def _check_steps(sites: Sequence[Segment], plan: Plan) -> None:
    """Refuse rounding steps of a precision that the plan puts nothing in."""
    for precision, steps in by_precision(steps_of(plan)).items():
        if not nodes_in(sites, plan, precision):
            raise UsageError(f"the plan decides {ROUNDING} {'+'.join(steps)} and puts nothing in {precision}")


def nodes_in(sites: Sequence[Segment], plan: Plan, option: str = INT8) -> frozenset[str]:
    """Return the nodes of the segments a plan puts in int8, or another option.

    Raises UsageError for a precision of an unknown segment, and for an unknown one.
    """
    members = {segment.site: segment.nodes for segment in sites}
    decisions = [d for d in plan.decisions if d.method == METHOD]
    for d in decisions:
        if d.site not in members:
            raise UsageError(f"the plan names the site {d.site!r}; this model has {', '.join(members)}")
        if d.option not in PRECISIONS:
            raise UsageError(
                f"the plan decides {d.method} {d.option} at {d.site!r}; "
                f"accepted: {METHOD} {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}"
            )
    empty: frozenset[str] = frozenset()
    return empty.union(*(members[d.site] for d in decisions if d.option == option))


def calibrate(
    graph: Graph,
    quantizers: Quantizers,
    samples: Sequence[Sequence[torch.Tensor]],
    progress: Progress | None = None,
    steps: Steps = (),
) -> Calibrated:
    """Quantise all that can be int8, with ranges from the samples, weights rounded by steps.

    Raises UnsupportedModelError where the target can quantise nothing of the graph.
    """
    names = frozenset(n.name for n in graph.ops())
    inputs, outputs = quantised_places(graph, quantizers(ir_filter(names)))
    grid = gridded(graph, steps, inputs, samples)
    full = quantize_int8(grid, names, quantizers(ir_filter(names)), samples, progress)
    return Calibrated(graph, full, inputs, outputs)


def quantised_places(graph: Graph, quantizer: Any) -> tuple[frozenset[str], frozenset[str]]:
    """Return the operations a quantizer quantises at their inputs, and those at their output."""
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    module = quantizer.transform_for_annotation(export_graph(graph).module())
    quantizer.annotate(module)
    inputs: set[str] = set()
    outputs: set[str] = set()
    for node in module.graph.nodes:
        found, name = node.meta.get(Q_ANNOTATION_KEY), str((node.meta.get("custom") or {}).get("ir_node"))
        if found is not None and name in graph:
            inputs |= {name} if found.input_qspec_map else set()
            outputs |= {name} if found.output_qspec is not None else set()
    return frozenset(inputs), frozenset(outputs)


def choose(calibrated: Calibrated, chosen: Collection[str]) -> Graph:
    """Return the float graph with the chosen operations in int8.

    Raises UnsupportedModelError where none of them can be.
    """
    edits = _Edits(calibrated, frozenset(chosen))
    if not edits.possible():
        raise UnsupportedModelError(
            f"none of the {len(edits.chosen)} chosen operations can be int8 on this target"
        )
    graph = edits.run()
    verify(graph)
    return graph


class _Edits:
    """One partial choice being copied from the full graph into the float one."""

    def __init__(self, calibrated: Calibrated, chosen: frozenset[str]) -> None:
        self.graph, self.full = calibrated.graph, calibrated.full
        self.inputs, self.outputs = calibrated.inputs & chosen, calibrated.outputs & chosen
        self.chosen = chosen
        self.editor = Editor(self.graph)
        self.copied: dict[Any, Value] = {}

    def possible(self) -> bool:
        return bool(self.inputs | self.outputs)

    def run(self) -> Graph:
        _check_alike(self.graph, self.full)
        freed: set[str] = set()
        for node in [*self.graph.ops(), *self.graph.writes(), self.graph.output]:
            twin = dict(self.full.node(node.name).values())
            found = [(path, self._operand(node, value, twin[path])) for path, value in node.values()]
            changes = {path: new for path, new in found if new is not None}
            if changes:
                freed |= {value.node for path, value in node.values() if path in changes}
                operands = tuple((key, with_values(operand, key, changes)) for key, operand in node.operands)
                self.editor.update(dataclasses.replace(node, operands=operands))
        self.editor.remove_unread(freed)
        return self.editor.finish()

    def _operand(self, node: Node, value: Value, twin: Value) -> Value | None:
        """Return the dequantised value to read in place of `value`, None where it stays as it is."""
        if not self.full.node(twin.node).op.startswith(NAMESPACE):
            return None
        stored = self.graph.node(value.node).kind is Kind.CONSTANT
        if node.name in self.inputs or (value.node in self.outputs and not stored):
            return self._copy(twin, node.name)
        return None

    def _copy(self, value: Value, before: str) -> Value:
        """Copy a quantise, a dequantise or an int8 constant of the full graph, with what feeds it."""
        node = self.full.node(value.node)
        if node.kind is Kind.INPUT or (node.kind is Kind.OP and not node.op.startswith(NAMESPACE)):
            return value  # the float graph has it under the same name
        # A runtime fuses each int8 reader with a dequantise of its own; float readers share one.
        shared = before not in self.inputs and node.op.startswith(NAMESPACE + "dequantize")
        own = node.operands if shared else node.name
        if own in self.copied:
            return Value(self.copied[own].node, value.index)
        changes = {path: self._copy(v, before) for path, v in node.values()}
        operands = tuple((key, with_values(operand, key, changes)) for key, operand in node.operands)
        name = self.editor.name(node.name)
        if node.name in self.full.constants:
            self.editor.graph.constants[name] = self.full.constants[node.name]
        copy = dataclasses.replace(node, name=name, operands=operands)
        self.copied[own] = self.editor.add(copy, before)
        return Value(name, value.index)


def _check_alike(graph: Graph, full: Graph) -> None:
    """Refuse a full graph that is not the float one with quantise and dequantise put in between."""
    own = {n.name: n.op for n in graph.ops()}
    other = {n.name: n.op for n in full.ops() if not n.op.startswith(NAMESPACE)}
    if own != other:
        odd = sorted(own.items() ^ other.items())[:4]
        raise UnsupportedModelError(
            f"quantizing changed more than precision, so no part of it can be chosen: {odd}"
        )
