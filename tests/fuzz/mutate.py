"""Spoiled files: bytes of any file, values of a JSON document, fields of an ONNX model; by a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

HOSTILE_NUMBERS = (-1, 0, 1, 2**31 - 1, 2**31, -(2**31), 2**63 - 1, -(2**63), 10**6)
HOSTILE_TEXTS = ("", "../../etc/passwd", "/etc/passwd", "a" * 10_000, "\x00", "é" * 50, "weights.bin", "%s%n")


def spoiled(data: bytes, kind: str, rng: random.Random) -> bytes:
    """Return the file with one to four things changed."""
    structured = {"onnx": spoil_onnx, "manifest": spoil_json}.get(kind)
    if structured is not None and rng.random() < 0.6:
        return structured(data, rng)
    for _ in range(rng.randint(1, 4)):
        data = rng.choice(BYTES)(data, rng)
    return data


def flip(data: bytes, rng: random.Random) -> bytes:
    """Change single bits."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 64))):
        if out:
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def cut(data: bytes, rng: random.Random) -> bytes:
    """Leave the end away."""
    return data[: rng.randrange(len(data) + 1)]


def remove(data: bytes, rng: random.Random) -> bytes:
    """Leave a piece away."""
    start, size = _piece(data, rng)
    return data[:start] + data[start + size :]


def repeat(data: bytes, rng: random.Random) -> bytes:
    """Write a piece twice."""
    start, size = _piece(data, rng)
    return data[: start + size] + data[start:]


def overwrite(data: bytes, rng: random.Random) -> bytes:
    """Put noise, zeros or ones in the place of a piece."""
    start, size = _piece(data, rng)
    filler = rng.choice((rng.randbytes(size), b"\x00" * size, b"\xff" * size))
    return data[:start] + filler + data[start + size :]


def insert(data: bytes, rng: random.Random) -> bytes:
    """Put noise between."""
    start, size = _piece(data, rng)
    return data[:start] + rng.randbytes(size) + data[start:]


BYTES: Sequence[Callable[[bytes, random.Random], bytes]] = (
    flip,
    flip,
    cut,
    remove,
    repeat,
    overwrite,
    insert,
)


def _piece(data: bytes, rng: random.Random) -> tuple[int, int]:
    size = rng.choice((1, 4, 16, 256, 4096))
    return rng.randrange(len(data) + 1), min(size, len(data))


def spoil_json(data: bytes, rng: random.Random) -> bytes:
    """Change values of a JSON document, of the same type or another."""
    document = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(document))
        holder, key = rng.choice(places)
        holder[key] = rng.choice(
            (*HOSTILE_NUMBERS, *HOSTILE_TEXTS, None, True, 1.5, [], {}, [None], {"a": []})
        )
        if rng.random() < 0.2 and isinstance(holder, dict):
            del holder[key]
    return json.dumps(document).encode()


def _places(value: Any) -> Any:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def spoil_onnx(data: bytes, rng: random.Random) -> bytes:
    """Change fields of an ONNX model that still parses."""
    import onnx

    model = onnx.load_from_string(data)
    for _ in range(rng.randint(1, 3)):
        rng.choice(ONNX)(model, rng)
    return bytes(model.SerializeToString())


def _node(model: Any, rng: random.Random) -> Any:
    return rng.choice(list(model.graph.node) or [model.graph.node.add()])


def _operator(model: Any, rng: random.Random) -> None:
    import onnx

    _node(model, rng).op_type = rng.choice(
        [*sorted({s.name for s in onnx.defs.get_all_schemas()}), "Nothing", ""]
    )


def _wire(model: Any, rng: random.Random) -> None:
    node = _node(model, rng)
    names = [n for other in model.graph.node for n in (*other.input, *other.output)] + ["", "nowhere"]
    side = rng.choice((node.input, node.output))
    if side and rng.random() < 0.7:
        side[rng.randrange(len(side))] = rng.choice(names)
    else:
        side.append(rng.choice(names))


def _attribute(model: Any, rng: random.Random) -> None:
    node = _node(model, rng)
    if node.attribute and rng.random() < 0.7:
        attribute = rng.choice(list(node.attribute))
        attribute.i = rng.choice(HOSTILE_NUMBERS)
        for index in range(len(attribute.ints)):
            attribute.ints[index] = rng.choice(HOSTILE_NUMBERS)
        if rng.random() < 0.3:
            attribute.type = rng.randrange(1, 12)
    else:
        added = node.attribute.add()
        added.name, added.type, added.i = (
            rng.choice(("axis", "pads", "group", "mode", "to")),
            2,
            rng.randrange(-9, 99),
        )


def _weight(model: Any, rng: random.Random) -> None:
    if not model.graph.initializer:
        return
    tensor = rng.choice(list(model.graph.initializer))
    choice = rng.randrange(4)
    if choice == 0 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(HOSTILE_NUMBERS)
    elif choice == 1:
        tensor.data_type = rng.randrange(0, 25)
    elif choice == 2:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
    else:
        tensor.data_location = 1
        for key, value in (
            ("location", rng.choice(HOSTILE_TEXTS)),
            ("offset", str(rng.choice(HOSTILE_NUMBERS))),
        ):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value


def _size(model: Any, rng: random.Random) -> None:
    value = rng.choice([*model.graph.input, *model.graph.output])
    shape = value.type.tensor_type.shape
    if shape.dim and rng.random() < 0.7:
        shape.dim[rng.randrange(len(shape.dim))].dim_value = rng.choice(HOSTILE_NUMBERS)
    else:
        value.type.tensor_type.elem_type = rng.randrange(0, 25)


def _version(model: Any, rng: random.Random) -> None:
    model.opset_import[0].version = rng.choice(HOSTILE_NUMBERS)
    model.ir_version = rng.choice((*HOSTILE_NUMBERS, 8))


def _order(model: Any, rng: random.Random) -> None:
    nodes = list(model.graph.node)
    rng.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


ONNX: Sequence[Callable[[Any, random.Random], None]] = (
    _operator,
    _wire,
    _attribute,
    _weight,
    _size,
    _version,
    _order,
)
