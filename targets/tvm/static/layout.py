"""Where each storage of a program lies: a segment of its kind, and an offset in it.

Values that the program computes and does not return share the arena by liveness; inputs, outputs
and weights have a place each. The file of weights begins with a line that names its content, which
the executable compares with the one it was made for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from targets.tvm.static import ALIGNMENT
from targets.tvm.static.arena import Lifetime, Plan, aligned, in_a_row, plan
from targets.tvm.static.program import Kind, Program

MAGIC = b"edgewright.weights/1 "  # then 16 hexadecimal digits


@dataclass(frozen=True)
class Layout:
    """An offset for each storage within its kind's segment, the bytes of each segment, and the weights."""

    offsets: tuple[int, ...]
    sizes: Mapping[Kind, int]
    weights: bytes
    digest: str


def lay_out(program: Program) -> Layout:
    """Return where all of a program's storages lie."""
    offsets: dict[int, int] = {}
    sizes: dict[Kind, int] = {}
    for kind in Kind:
        members = [i for i, storage in enumerate(program.storages) if storage.kind is kind]
        placed = _placed(program, kind, members)
        offsets |= dict(zip(members, placed.offsets, strict=True))
        sizes[kind] = placed.size
    body = _body(program, offsets, sizes[Kind.WEIGHT])
    digest = hashlib.sha256(body).hexdigest()[:16]
    header = (MAGIC + digest.encode()).ljust(ALIGNMENT, b"\n")
    ordered = tuple(offsets[i] for i in range(len(program.storages)))
    return Layout(ordered, sizes, header + body, digest)


def _placed(program: Program, kind: Kind, members: Sequence[int]) -> Plan:
    if kind is Kind.SCRATCH:
        lives = lifetimes(program)
        return plan([lives[i] for i in members])
    return in_a_row([program.storages[i].size for i in members])


def lifetimes(program: Program) -> dict[int, Lifetime]:
    """Return the life of each storage that a call touches, counted in calls."""
    touched: dict[int, list[int]] = {}
    for time, call in enumerate(program.calls):
        for tensor in call.arguments:
            touched.setdefault(program.tensors[tensor].storage, []).append(time)
    return {i: Lifetime(program.storages[i].size, times[0], times[-1]) for i, times in touched.items()}


def _body(program: Program, offsets: Mapping[int, int], size: int) -> bytes:
    body = bytearray(size)
    for index, storage in enumerate(program.storages):
        if storage.kind is Kind.WEIGHT:
            assert offsets[index] + aligned(storage.size) <= size
            body[offsets[index] : offsets[index] + storage.size] = storage.content
    return bytes(body)
