"""The graphs of a search's choices: structure changed once for each plan of it, int8 ranges read once more.

What was made lies in a folder named by the structural plan's digest, so that a search that goes on
repeats none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from compiler.compress.apply import Calibrated, calibrate, choose, nodes_in
from compiler.compress.decision import Setting as StructureSetting
from compiler.compress.half import half_able, to_half
from compiler.compress.keep_branches import METHOD as BRANCHES
from compiler.compress.keep_branches import keep_branches, kept_decisions, placed
from compiler.compress.quantize import ir_filter
from compiler.compress.quantize_dynamic import dynamic_nodes, quantize_dynamic, unwritten_nodes
from compiler.compress.quantize_int4 import int4_able, quantize_int4
from compiler.compress.rounding import Steps, gridded, levelled, real, shaping, steps_of
from compiler.compress.segments import Segment, carried
from compiler.compress.structure import apply_structure, structural
from compiler.errors import UnsupportedModelError
from compiler.evaluate import evaluate
from compiler.ir.graph import Graph
from compiler.ir.storage import load_graph, save_graph
from compiler.merge.branches import Branches
from compiler.plan import Plan
from compiler.search.journal import Journal
from compiler.target import FLOAT16, INT4, INT8, INT8_DYNAMIC, Target
from edgewright.search_samples import Sample
from edgewright.search_steps import counted
from edgewright.stages import Progress

SKETCH_SAMPLES = 4


@dataclass
class Structures:
    """What plans make of one merged float graph.

    `samples` are those the int8 ranges are read from; `setting` holds those that structural methods fit to.
    """

    graph: Graph
    segments: Sequence[Segment]
    target: Target
    samples: Sequence[Sample]
    setting: StructureSetting
    journal: Journal
    folder: Path
    progress: Progress
    branches: Branches | None = None
    _graphs: dict[tuple[Plan, Steps], Graph] = field(default_factory=dict)
    _calibrated: dict[tuple[Plan, Steps], Calibrated] = field(default_factory=dict)

    def of(self, plan: Plan) -> Graph:
        """Return the graph of a plan, its healing left out.

        Raises UsageError where a structural decision cannot be taken beside the others, and
        UnsupportedModelError where nothing that is to be int8 can be.
        """
        structure, steps = structural(plan), steps_of(plan)
        graph = self.float(structure, steps)
        cut = placed(self.segments, self.graph, self._levelled(structure))
        sites = carried(cut, graph)
        static, dynamic, int4 = (nodes_in(sites, plan, option) for option in (INT8, INT8_DYNAMIC, INT4))
        if static:
            graph = choose(self.calibrated(structure, steps), static)
        if dynamic:
            graph = self._dynamic(graph, dynamic)
        graph = self._int4(graph, int4, steps) if int4 else graph
        half = nodes_in(sites, plan, FLOAT16)
        return to_half(graph, half) if half else graph

    def sketch(self, plan: Plan) -> Graph:
        """Return the float graph of a plan's structure, fitted to few samples: its shapes are right.

        Raises UsageError where a structural decision cannot be taken.
        """
        few = replace(self.setting, samples=self.setting.samples[:SKETCH_SAMPLES])
        return apply_structure(self._levelled(structural(plan)), structural(plan), few)

    def original(self, plan: Plan) -> Graph:
        """Return the merged float graph, levelled as a plan's rounding asks: what its layers compare with."""
        return self._levelled(structural(plan), real(steps_of(plan)))

    def float(self, structure: Plan, steps: Steps = ()) -> Graph:
        """Return the float graph of a structural plan, levelled by rounding steps."""
        steps = real(steps)
        if not structure.without(BRANCHES).decisions:
            return self._levelled(structure, steps)
        if (structure, steps) not in self._graphs:
            self._graphs[structure, steps] = self._made(structure, steps)
        return self._graphs[structure, steps]

    def calibrated(self, structure: Plan = Plan(), steps: Steps = ()) -> Calibrated:  # a plan is a value
        """Return the graph of a structural plan with all that can be int8, rounded by steps."""
        steps = shaping(steps, INT8)
        if (structure, steps) not in self._calibrated:
            self._calibrated[structure, steps] = self._read(structure, steps)
        return self._calibrated[structure, steps]

    def dynamic(self) -> frozenset[str]:
        """Return the linear layers whose kernels can read ranges as they run.

        Where a runtime rounds activations without the graph saying so, a cost read from the graph would
        leave that rounding out. Runtimes have few such kernels for other layers.
        """
        names = frozenset(n.name for n in self.graph.ops())
        try:
            full = self._dynamic(self.graph, names)
        except UnsupportedModelError:  # the target has none, or none for what is here
            return frozenset()
        named = dynamic_nodes(full) - unwritten_nodes(full)
        return frozenset(n for n in named if full.node(n).op == "aten.linear.default")

    def int4(self, steps: Steps = ()) -> Graph:
        """Return the merged float graph with all that can be int4, rounded by steps."""
        graph = self._levelled(steps=real(steps))
        return self._int4(graph, int4_able(graph), steps)

    def int4_layers(self) -> frozenset[str]:
        """Return the layers that can have int4 weights; none where the target has no kernel for them."""
        return int4_able(self.graph) if INT4 in self.target.precisions else frozenset()

    def half_layers(self) -> frozenset[str]:
        """Return the layers that can be in float16: none where the target has no such kernels.

        Nor where some sample's activations leave its range.
        """
        able = half_able(self.graph) if FLOAT16 in self.target.precisions else frozenset()
        if not able:
            return able
        full = to_half(self.graph, [n.name for n in self.graph.ops()])
        outputs = (x for sample in self.samples[:SKETCH_SAMPLES] for x in evaluate(full, sample))
        finite = all(bool(x.isfinite().all()) for x in outputs if isinstance(x, torch.Tensor))
        return able if finite else frozenset()

    def _dynamic(self, graph: Graph, names: frozenset[str]) -> Graph:
        quantizer = self.target.quantizer(ir_filter(names), INT8_DYNAMIC)
        return quantize_dynamic(graph, names, quantizer, self.target.rounds_rows)

    def _int4(self, graph: Graph, names: frozenset[str], steps: Steps) -> Graph:
        return quantize_int4(gridded(graph, steps, names, self.samples, INT4), names, self.target.rounds_rows)

    def _levelled(self, structure: Plan = Plan(), steps: Steps = ()) -> Graph:  # a plan is a value
        """Return the merged float graph with the branches apart that a plan says, levelled by steps."""
        kept = Plan(kept_decisions(structure))
        if not kept.decisions and not steps:
            return self.graph
        if (kept, steps) not in self._graphs:
            graph = keep_branches(self.graph, kept, self.branches)
            self._graphs[kept, steps] = levelled(graph, steps, self.samples) if steps else graph
        return self._graphs[kept, steps]

    def _made(self, structure: Plan, steps: Steps) -> Graph:
        name, folder = _named(steps), self._folder(structure, steps)
        if (
            self.journal.get("structure", structure.digest(), name) is not None
            and (folder / "float.json").is_file()
        ):
            return load_graph(folder / "float.json")
        self.progress(
            f"structure: {', '.join(f'{d.site} {d.method} {d.option}' for d in structure.decisions)}"
        )
        made = apply_structure(self._levelled(structure, steps), structure, self.setting)
        folder.mkdir(parents=True, exist_ok=True)
        save_graph(made, folder / "float.json")
        self.journal.put(True, "structure", structure.digest(), name)
        return made

    def _read(self, structure: Plan, steps: Steps) -> Calibrated:
        """Quantise all that can be int8, or read back what an interrupted search had made."""
        graph, name, folder = self.float(structure, steps), _named(steps), self._folder(structure, steps)
        done = self.journal.get("calibrated", structure.digest(), name)
        if done is not None and (folder / "int8.json").is_file():
            full = load_graph(folder / "int8.json")
            return Calibrated(graph, full, frozenset(done["inputs"]), frozenset(done["outputs"]))
        self.progress(f"calibrate: {len(self.samples)} samples, rounding: {name}")
        tell = counted(self.progress, "calibrate")
        made = calibrate(graph, self.target.quantizer, self.samples, tell, steps)
        folder.mkdir(parents=True, exist_ok=True)
        save_graph(made.full, folder / "int8.json")
        places = {"inputs": sorted(made.inputs), "outputs": sorted(made.outputs)}
        self.journal.put(places, "calibrated", structure.digest(), name)
        return made

    def _folder(self, structure: Plan, steps: Steps) -> Path:
        return self.folder / structure.digest() / _named(steps)


def _named(steps: Steps) -> str:
    return "+".join(steps) or "nearest"
