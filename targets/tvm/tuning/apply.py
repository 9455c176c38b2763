"""Schedules as texts, and a fused module with the schedules of its kernels applied.

A text is the trace of MetaSchedule as JSON: the instructions with their decisions, which a function of
the same digest takes as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from targets.tvm.tuning.kernels import alone, call_sites, key


def schedule_text(schedule: Any) -> str:
    """Return the trace of a schedule."""
    return json.dumps(_plain(schedule.trace.as_json()), separators=(",", ":"))


def scheduled(module: Any, text: str) -> Any:
    """Return a module of one function under a schedule."""
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import Trace

    schedule = Schedule(module)
    Trace.apply_json_to_schedule(json.loads(text), schedule)
    return schedule.mod


def apply(fused: Any, schedules: Mapping[str, str]) -> tuple[Any, tuple[str, ...]]:
    """Return a fused module with the schedules there are, by key, and the kernels that got one."""
    import tvm

    if not schedules:
        return fused, ()
    functions, tuned = dict(fused.functions), []
    for name, (variable, _, _) in call_sites(fused).items():
        if (text := schedules.get(key(fused[variable]))) is None:
            continue
        made = scheduled(alone(fused[variable]), text)["main"].without_attr("global_symbol")
        functions[variable] = made.with_attr("tirx.is_scheduled", True)
        tuned.append(name)
    return tvm.IRModule(functions, attrs=fused.attrs, global_infos=fused.global_infos), tuple(tuned)


def _plain(value: Any) -> Any:
    """Return a tree of TVM's containers and numbers as one of Python's."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    return value.value  # an immediate
