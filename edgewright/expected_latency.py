"""What a compiled method is expected to take on the device whose table priced it: the manifest's entry.

Where the method's graph was measured whole, that is told, as measured. Otherwise its kernels are added up,
those that were not measured by the model fitted to those that were, and the figure says `predicted`, with
an interval. Where three programs or more were measured whole on the device, they correct the sum
(`compiler.cost.correction`), and the sum stands beside. Where a kernel is like none that was measured there
is no figure, and its kind is named.
"""

from __future__ import annotations

from dataclasses import asdict, astuple, replace
from typing import Any

from compiler.cost.correction import corrected, table_correction
from compiler.cost.latency_table import Entry, LatencyTable
from compiler.cost.program import WholeProgram
from compiler.cost.reading import fit_table
from compiler.cost.total import MEASURED_PERCENT, graph_kernels, total
from compiler.ir.graph import Graph
from edgewright.feedback import total_document
from edgewright.profiling import UNITS


def expected_latency(graph: Graph, table: LatencyTable | None) -> dict[str, Any] | None:
    """Return the expected latency of a graph as JSON values, None without a table or with open sizes."""
    if table is None or graph.symbols:
        return None
    unit = UNITS[table.metric]
    head = {"device": table.device, "target": table.target, "threads": table.threads}
    head |= {"metric": table.metric.value}
    whole = table.entry(WholeProgram(graph))
    if whole is not None:
        fixed = table.fixed.median if table.fixed else 0.0
        bounds = {f"{k}_{unit}": v + fixed for k, v in asdict(whole).items()}
        return {**head, "kind": "measured", "interval_percent": MEASURED_PERCENT, **bounds}
    model = fit_table(table)
    found = total(graph_kernels(graph, table), table, model)
    correction = table_correction(table, model)
    entry = None if correction is None else corrected(graph, table, correction, model)
    if entry is None or correction is None or found.entry is None:
        return {**head, **total_document(found, unit)}
    more = table.fixed.median if table.fixed else 0.0
    mended = replace(found, entry=Entry(*(v + more for v in astuple(entry))))
    said = {"kind": f"corrected by {correction.programs} whole programs", f"sum_{unit}": found.entry.median}
    return {**head, **total_document(mended, unit), **said}
