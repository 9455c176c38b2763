r"""The experts that calibration data routes to least are left out.

The gates of those that go are taken away in front of the top-k, which is the same as a gate of
:math:`-\infty` there: rows that chose none of them choose, and weigh, as they did, bit for bit. (Taken
away in front of the softmax they would change every gate.) The tables of weights lose their rows, so what
is saved is bytes and cache misses; how many experts a row runs through stays k.

Rare experts serve rare inputs: the samples must cover what the model will see. Options are prefixes of
one order, from the least used, by the count of rows and then by the mean gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from compiler.compress.decision import Offer, Setting
from compiler.compress.routers import Router, routers, usage
from compiler.compress.sites import accepted, number
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, TensorType

METHOD = "drop_experts"
_SHARES = (0.125, 0.25, 0.5)  # of the experts; one alone is always offered


def offers(graph: Graph, setting: Setting) -> tuple[Offer, ...]:
    """Return the routers with the numbers of experts that may go; at least k stay."""
    if not setting.samples:
        return ()
    found = ((router, _numbers(router)) for router in routers(graph))
    return tuple(
        Offer(router.site, tuple(f"drop:{n}" for n in numbers), router.members)
        for router, numbers in found
        if numbers
    )


def apply(graph: Graph, choices: Mapping[str, str], setting: Setting) -> Graph:
    """Return the graph without the least used experts of each chosen router."""
    chosen = accepted(METHOD, choices, offers(graph, setting))
    found = {router.site: router for router in routers(graph)}
    kept = {}
    for site, option in chosen.items():
        counts, gates = usage(graph, found[site], setting.samples)
        order = sorted(range(found[site].experts), key=lambda e: (int(counts[e]), float(gates[e]), e))
        kept[site] = sorted(order[number(option) :])
    editor = Editor(graph)
    for site, experts in kept.items():
        keep_experts(editor, found[site], experts)
    return editor.finish() if chosen else graph


def keep_experts(editor: Editor, router: Router, kept: list[int]) -> None:
    """Leave a router only some of its experts, in their order."""
    node, index = router.node, torch.tensor(kept)
    dim = editor.graph.type_of(router.gates).rank - 1
    gates = editor.graph.type_of(router.gates)
    stored = editor.constant(index, f"{node.name}_kept", f"{router.site}.kept", before=node.name)
    operands = {"self": router.gates, "dim": dim, "index": stored}
    types = TensorType((*gates.shape[:-1], len(kept)), gates.dtype)
    fewer = editor.ahead_of(node, "aten.index_select.default", operands, types)
    changed = tuple((key, fewer if key == "self" else operand) for key, operand in node.operands)
    editor.update(replace(node, operands=changed))
    for reader, key in router.lookups:
        old = reader.operand(key)
        table = editor.graph.constant(old)
        assert table is not None
        origin = editor.graph.node(old.node).origin
        rows = editor.constant(table[index].contiguous(), f"{old.node}_kept", origin, before=reader.name)
        current = editor.graph.node(reader.name)
        operand = tuple((k, rows if k == key else o) for k, o in current.operands)
        editor.update(replace(current, operands=operand))
        editor.remove_unread([old.node])


def _numbers(router: Router) -> list[int]:
    most = router.experts - router.k
    numbers = {1, *(round(share * router.experts) for share in _SHARES)}
    return sorted(n for n in numbers if 0 < n <= most)
