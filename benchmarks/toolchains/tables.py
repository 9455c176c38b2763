"""The results as Markdown: three tables, patterns by tools, and notes on what is not in them."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from environments import SCRIPTS, Tool

FORMS = ("stock", "ours")
Result = Mapping[str, Any]


def tables(tools: Sequence[Tool], patterns: Sequence[Result], results: Sequence[Result]) -> str:
    """Return the three tables."""
    found = {(r["tool"], r["pattern"]): r for r in results}
    versions = {r["tool"]: ", ".join(r["versions"].values()) for r in results if "versions" in r}
    titles = [f"{t.title} {versions.get(t.name, '')}".strip() for t in tools]
    parts = []
    for caption, cell in (
        ("operations left, stock → ours", operations),
        ("latency, stock ÷ ours", latency),
        ("largest error, stock / ours", errors),
    ):
        lines = [f"| {caption} | ideal | {' | '.join(titles)} |", "|---" * (len(tools) + 2) + "|"]
        for pattern in patterns:
            cells = [cell(found[tool.name, pattern["name"]]) for tool in tools]
            lines.append(f"| {pattern['title']} | {pattern['ideal']} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def operations(result: Result) -> str:
    """Return counted operations, and in brackets the others that compute, of both forms."""
    if FORMS[0] not in result:
        return "failed"
    parts = []
    for form in FORMS:
        count = result[form]["count"]
        others = sum(result[form]["operations"].values()) - count
        parts.append(f"{count} (+{others})" if others else str(count))
    return " → ".join(parts)


def latency(result: Result) -> str:
    """Return the paired ratio with its interval; a dash where it was not measured."""
    if "stock_over_ours" not in result:
        return "failed" if "failed" in result else "—"
    value, low, high = result["stock_over_ours"]
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def errors(result: Result) -> str:
    """Return the errors of both forms, relative to the largest output."""
    if FORMS[0] not in result:
        return "failed"
    return " / ".join(f"{result[form]['max_error']:.1e}" for form in FORMS)


def notes(results: Sequence[Result], absent: Mapping[str, str]) -> str:
    """Return the reasons of tools that are absent and of steps that failed, a line each."""
    lines = [f"- {title}: {reason}" for title, reason in absent.items()]
    lines += [f"- {r['tool']}, {r['pattern']}: {r['failed']}" for r in results if "failed" in r]
    return "\n".join(lines)


def page(about: str, tools: Sequence[Tool], text: str) -> str:
    """Return the document: what was measured, the tables, and how each tool is read."""
    how = [f"- {' '.join(docstring(f'tool_{tool.name}.py').split())}" for tool in tools]
    parts = ["# Merging before other tool chains", about, text, "## How each tool is read", "\n".join(how)]
    sizes = docstring("patterns.py").split("    python", 1)[0].strip()
    return "\n\n".join([*parts, "## The patterns", sizes]) + "\n"


def docstring(script: str) -> str:
    """Return the docstring of a script of this folder."""
    return ast.get_docstring(ast.parse((SCRIPTS / script).read_text(encoding="utf-8"))) or ""
