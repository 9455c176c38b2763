"""The graphs of a search's choices: structure changed once for each plan of it, int8 ranges read once more.

What was made lies in a folder named by the structural plan's digest, so that a search that goes on
repeats none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from compiler.compress.apply import Calibrated, Quantizers, calibrate, choose, int8_nodes
from compiler.compress.decision import Setting as StructureSetting
from compiler.compress.segments import Segment, carried
from compiler.compress.structure import apply_structure, structural
from compiler.ir.graph import Graph
from compiler.ir.storage import load_graph, save_graph
from compiler.plan import Plan
from compiler.search.journal import Journal
from edgewright.search_samples import Sample
from edgewright.search_steps import counted
from edgewright.stages import Progress


@dataclass
class Structures:
    """What plans make of one merged float graph.

    `samples` are those the int8 ranges are read from; `setting` holds those that structural methods fit to.
    """

    graph: Graph
    segments: Sequence[Segment]
    quantizers: Quantizers
    samples: Sequence[Sample]
    setting: StructureSetting
    journal: Journal
    folder: Path
    progress: Progress
    _graphs: dict[Plan, Graph] = field(default_factory=dict)
    _calibrated: dict[Plan, Calibrated] = field(default_factory=dict)

    def of(self, plan: Plan) -> Graph:
        """Return the graph of a plan, its healing left out.

        Raises UsageError where a structural decision cannot be taken beside the others, and
        UnsupportedModelError where nothing that is to be int8 can be.
        """
        structure = structural(plan)
        graph = self.float(structure)
        chosen = int8_nodes(carried(self.segments, graph), plan)
        return choose(self.calibrated(structure), chosen) if chosen else graph

    def float(self, structure: Plan) -> Graph:
        """Return the float graph of a structural plan."""
        if structure not in self._graphs:
            self._graphs[structure] = self._made(structure) if structure.decisions else self.graph
        return self._graphs[structure]

    def calibrated(self, structure: Plan = Plan()) -> Calibrated:  # a plan is a value
        """Return the graph of a structural plan with all that can be int8."""
        if structure not in self._calibrated:
            self._calibrated[structure] = self._read(structure)
        return self._calibrated[structure]

    def _made(self, structure: Plan) -> Graph:
        path = self.folder / structure.digest() / "float.json"
        if self.journal.get("structure", structure.digest()) is not None and path.is_file():
            return load_graph(path)
        self.progress(
            f"structure: {', '.join(f'{d.site} {d.method} {d.option}' for d in structure.decisions)}"
        )
        made = apply_structure(self.graph, structure, self.setting)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_graph(made, path)
        self.journal.put(True, "structure", structure.digest())
        return made

    def _read(self, structure: Plan) -> Calibrated:
        """Quantise all that can be int8, or read back what an interrupted search had made."""
        graph = self.float(structure)
        path = self.folder / structure.digest() / "int8.json"
        done = self.journal.get("calibrated", structure.digest())
        if done is not None and path.is_file():
            return Calibrated(graph, load_graph(path), frozenset(done["inputs"]), frozenset(done["outputs"]))
        self.progress(f"calibrate: {len(self.samples)} samples")
        made = calibrate(graph, self.quantizers, self.samples, counted(self.progress, "calibrate"))
        path.parent.mkdir(parents=True, exist_ok=True)
        save_graph(made.full, path)
        places = {"inputs": sorted(made.inputs), "outputs": sorted(made.outputs)}
        self.journal.put(places, "calibrated", structure.digest())
        return made
