"""ExecuTorch's operator suite with edgewright in front: its XNNPACK flows, each beside one of ours.

A pytest plugin, loaded before the suite's own conftest asks for the flows. A flow of ours exports as the
suite does, then imports the program, runs the exact passes, the merge engine and the target's
legalisation, and hands what it exports on. The reference stays the suite's own export.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from executorch.backends.test.harness.stages import Export, StageType
from executorch.backends.test.suite import flow as suite
from executorch.backends.xnnpack.test.tester import Tester

from compiler.export import export_graph
from compiler.frontends.torch_export import import_program
from compiler.merge import merge
from compiler.passes import PIPELINE
from targets.executorch.legalise import legalise
from tests.executorch_suite.quicker import install, spare

OURS = "edgewright_"
FOUND = "EDGEWRIGHT_SUITE_FOUND"
SIDE = "EDGEWRIGHT_SUITE_SIDE"


class FrontedExport(Export):
    """The suite's export, then ours of the graph it becomes."""

    def run(self, artifact: Any, inputs: Any) -> None:
        """Export the module, and what the compiler makes of it."""
        super().run(artifact, inputs)
        self.stock = self.exported_program
        graph = import_program(self.stock)
        for _, step in PIPELINE:
            graph = step(graph)
        self.exported_program = export_graph(legalise(merge(graph)[0]))


class Fronted(Tester):
    """XNNPACK's tester with edgewright in front; results are held against the stock export."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take another export stage."""
        super().__init__(*args, **kwargs)
        self.stage_classes[StageType.EXPORT] = FrontedExport

    def _calculate_reference_output(self, program: Any, inputs: Any) -> Any:
        return super()._calculate_reference_output(self.stages[StageType.EXPORT].stock, inputs)


def flows() -> dict[str, suite.TestFlow]:
    """Return the stock XNNPACK flows, and ours."""
    stock = suite._load_xnnpack()
    ours = [dataclasses.replace(f, name=OURS + f.name, tester_factory=Fronted) for f in stock]
    return {f.name: f for f in (*stock, *ours)}


suite.all_flows = flows
install()


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Keep what one side has left to do: ours all cases, stock those that did not pass with ours."""
    if FOUND not in os.environ:
        return
    lines = Path(os.environ[FOUND]).read_text(encoding="utf-8").splitlines()
    known = {entry["test"]: entry["outcome"] for entry in map(json.loads, lines)}
    left = {name.replace(OURS, "") for name, said in known.items() if OURS in name and said != "passed"}
    ours = os.environ[SIDE] == "ours"
    items[:] = [
        item
        for item in items
        if item.nodeid not in known and (OURS in item.nodeid if ours else item.nodeid in left)
    ]


def pytest_runtest_teardown() -> None:
    """Keep the cases to come as quick as the first ones."""
    spare()


def pytest_runtest_logreport(report: Any) -> None:
    """Append each outcome to the file named in the environment."""
    path = os.environ.get(FOUND)
    if path and (report.when == "call" or report.outcome != "passed"):
        line = {"test": report.nodeid, "outcome": report.outcome, "said": str(report.longrepr or "")[-400:]}
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
