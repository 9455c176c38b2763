"""What an earlier search measured of the same model on another device, for a search here to begin with.

Its readings are multiples of the merged float model's own time, by plan. They stand for what a cost model
would expect of an option, and so decide what is measured first; a few measurements here correct them
(`compiler.search.few_shot`), and only what is measured here is ever chosen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compiler.errors import UsageError
from compiler.ir.digest import content_digest
from compiler.ir.graph import Graph
from compiler.plan import parse_plan
from edgewright.search_output import PLAN_SCHEMA, TRIED_SCHEMA


def read_warm_start(folder: str | Path, graph: Graph) -> Mapping[str, float]:
    """Return the change of time that each plan brought in an earlier search, over the float model's.

    Keys are the plans' digests. Raises UsageError where the folder holds no finished search of this very
    merged model.
    """
    plan, tried = (_document(Path(folder) / name) for name in ("plan.json", "tried.json"))
    if plan.get("schema") != PLAN_SCHEMA or tried.get("schema") != TRIED_SCHEMA:
        raise UsageError(f"{folder} is no folder that a search of this version wrote")
    known, ours = plan["digests"]["model"], content_digest(graph)
    if known != ours:
        raise UsageError(
            f"{folder} is a search of another model (merged graph {known}, this one is {ours}); warm starts "
            f"need the same weights and the same merges"
        )
    return {parse_plan(t["plan"]).digest(): float(t["ratio"]) - 1 for t in tried["tried"]}


def _document(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not JSON"
        raise UsageError(f"no earlier search to start from: {path}: {reason}") from error
    return found if isinstance(found, dict) else {}
