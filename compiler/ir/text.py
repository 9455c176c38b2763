"""Text IR: the readable, diffable form of a graph, which parses back equal.

    graph {
      symbols {"n0": [1, 64]}
      %x = input : float32[n0, 3, 8, 8]
      %w = constant "5bd1f0c25b1e1c5a" : float32[8, 3, 3, 3]  @ "stem.weight"
      %y = aten.conv2d.default(input=%x, weight=%w, bias=none) : float32[n0, 8, 8, 8]  @ "stem"
      %write_n = write(state=%n, value=%y)
      return(r0=%y, r1=%s#1)
    }

Operands are `%name` or `%name#output`, `none`, `true`, `3`, `1e-05`, `"text"`, `{n0*8}` (a symbolic
dimension), `dtype.float32`, `device.cpu`, `layout.strided`, `memory_format.contiguous_format`, and
`[...]`. Weights stand by content digest; hand their tensors to `parse_graph` to run the result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from compiler.errors import UsageError
from compiler.ir.edit import Editor
from compiler.ir.graph import Constant, Graph, Kind, Node, Operand, Signature, Sym, Symbol, TensorType, Value
from compiler.ir.schema import normalize

Tensors = Mapping[str, torch.Tensor] | Callable[[str, TensorType], torch.Tensor]


def print_graph(graph: Graph) -> str:
    """Return the whole graph as text."""
    lines = ["graph {"]
    if graph.symbols:
        lines.append(f"  symbols {json.dumps({k: _printed(v) for k, v in graph.symbols.items()})}")
    if graph.signature != Signature():
        leaves = [f"{kind}:{print_operand(leaf)}" for kind, leaf in graph.signature.leaves]
        lines.append(f"  signature {json.dumps([graph.signature.in_spec, graph.signature.out_spec, leaves])}")
    lines += [f"  {print_node(graph, node)}" for node in graph.nodes()]
    return "\n".join([*lines, "}"]) + "\n"


def _printed(symbol: Symbol) -> list[int | None]:
    return list(symbol if symbol.example is not None else symbol[:2])


def print_node(graph: Graph, node: Node) -> str:
    """Return one node as one line."""
    operands = ", ".join(f"{key}={print_operand(value)}" for key, value in node.operands)
    if node.kind is Kind.OUTPUT:
        return f"return({operands})"
    types = " : " + " | ".join(map(str, node.types)) if node.types else ""
    origin = f"  @ {json.dumps(node.origin)}" if node.origin else ""
    if node.kind in (Kind.CONSTANT, Kind.STATE):
        body = f'{node.kind.value} "{graph.constants[node.name].digest}"'
    elif node.kind is Kind.INPUT:
        body = "input"
    else:
        body = f"{node.op or node.kind.value}({operands})"
    return f"%{node.name} = {body}{types}{origin}"


def print_operand(operand: Operand) -> str:
    """Return one operand as text."""
    match operand:
        case Value(node, index):
            return f"%{node}#{index}" if index else f"%{node}"
        case Sym(text):
            return "{" + text + "}"
        case None | bool():
            return str(operand).lower()
        case str():
            return json.dumps(operand)
        case tuple():
            return "[" + ", ".join(map(print_operand, operand)) + "]"
        case torch.dtype():
            return str(operand).replace("torch.", "dtype.")
        case torch.device():
            return f"device.{operand.type}"
        case torch.layout():
            return str(operand).replace("torch.", "layout.")
        case torch.memory_format():
            return str(operand).replace("torch.", "memory_format.")
        case _:
            return repr(operand)


def window(graph: Graph, name: str, radius: int = 3) -> str:
    """Return the lines around a node, the node itself marked: what an error message shows."""
    nodes = [n for n in graph.nodes() if n.kind is not Kind.CONSTANT or n.name == name]
    at = next(i for i, n in enumerate(nodes) if n.name == name)
    part = nodes[max(0, at - radius) : at + radius + 1]
    return "\n".join(f"{'->' if n.name == name else '  '} {print_node(graph, n)}" for n in part)


_TOKEN = re.compile(
    r"""\s*(?:(?P<value>%[a-z][a-z0-9_]*(?:\#\d+)?) | (?P<sym>\{[^}]*\}) | (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<torch>(?:dtype|device|layout|memory_format)\.\w+)
    | (?P<number>-?(?:inf|nan|\d+(?:\.\d*)?(?:e[+-]?\d+)?)) | (?P<word>none|true|false) | (?P<open>\[)
    | (?P<close>\]) | (?P<comma>,) | (?P<key>[A-Za-z_]\w*)=)""",
    re.VERBOSE,
)
_LINE = re.compile(
    r"%(?P<name>[a-z][a-z0-9_]*) = "
    r"(?P<body>input|(?:constant|state) \"(?P<digest>\w+)\"|(?P<op>[\w.]+)\((?P<args>.*)\))"
    r"(?: : (?P<types>[a-z0-9_]+\[[^@]*\]))?(?:  @ (?P<origin>\".*\"))?\Z"
)


def parse_graph(text: str, tensors: Tensors | None = None) -> Graph:
    """Read a graph from text; raises UsageError naming the line.

    `tensors` gives the data of constants: a mapping by name, or a function of name and type. A
    constant without data keeps the digest the text states, so that the graph compares equal.
    """
    editor = Editor()
    lines = text.strip().splitlines()
    for number, line in enumerate(lines[1:-1], start=2):
        try:
            _parse_line(editor, line.strip(), tensors)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError) as error:
            raise UsageError(f"text IR line {number}: {error}: {line.strip()!r}") from error
    return editor.finish()


def _parse_line(editor: Editor, line: str, tensors: Tensors | None) -> None:
    graph = editor.graph
    if line.startswith("symbols "):
        graph.symbols = {k: Symbol(*v) for k, v in json.loads(line.removeprefix("symbols ")).items()}
    elif line.startswith("signature "):
        in_spec, out_spec, leaves = json.loads(line.removeprefix("signature "))
        pairs = tuple((kind, _parse_operand(rest)) for kind, rest in (leaf.split(":", 1) for leaf in leaves))
        graph.signature = Signature(in_spec, out_spec, pairs)
    elif line.startswith("return("):
        editor.add(Node("output", Kind.OUTPUT, operands=_parse_operands(line[7:-1])))
    elif line and not line.startswith("//"):
        _parse_node(editor, line, tensors)


def _parse_node(editor: Editor, line: str, tensors: Tensors | None) -> None:
    match = _LINE.match(line)
    if match is None:
        raise ValueError("expected `%name = op(key=operand, ...) : type`")
    name, op = match["name"], match["op"]
    types = tuple(parse_type(t) for t in (match["types"] or "").split(" | ") if t)
    origin = json.loads(match["origin"]) if match["origin"] else ""
    kind = Kind(match["body"].split()[0]) if op is None else (Kind.WRITE if op == "write" else Kind.OP)
    operands = _parse_operands(match["args"]) if op else ()
    if kind is Kind.OP:
        operands = normalize(op, (), dict(operands))
    if kind in (Kind.CONSTANT, Kind.STATE):
        editor.graph.constants[name] = _data(name, types[0], match["digest"], tensors)
    editor.add(Node(name, kind, op if kind is Kind.OP else "", operands, types, origin))


def _data(name: str, type_: TensorType, digest: str, tensors: Tensors | None) -> Constant:
    if tensors is None:
        return Constant(None, digest)
    tensor = tensors(name, type_) if callable(tensors) else tensors.get(name)
    return Constant(None, digest) if tensor is None else Constant(tensor)


def parse_type(text: str) -> TensorType:
    """Read a type such as `float32[n0, 3]`."""
    dtype, _, shape = text.strip().partition("[")
    dims = [d.strip() for d in _split_dims(shape.rstrip()[:-1])]
    return TensorType(tuple(int(d) if d.isdigit() else Sym(d) for d in dims), getattr(torch, dtype))


def _split_dims(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "([") - (c in ")]")
        if c == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]] if text.strip() else []


def _parse_operands(text: str) -> tuple[tuple[str, Operand], ...]:
    tokens, position, pairs = _tokens(text), 0, []
    while position < len(tokens):
        kind, key = tokens[position]
        if kind != "key":
            raise ValueError(f"expected an operand name, got {key!r}")
        operand, position = _read(tokens, position + 1)
        pairs.append((key, operand))
        if position < len(tokens) and tokens[position][0] == "comma":
            position += 1
    return tuple(pairs)


def _parse_operand(text: str) -> Operand:
    return _read(_tokens(text), 0)[0]


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, at = [], 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"cannot read {text[at : at + 20]!r}")
        kind = str(match.lastgroup)
        tokens.append((kind, match[kind]))
        at = match.end()
    return tokens


def _read(tokens: list[tuple[str, str]], at: int) -> tuple[Operand, int]:
    kind, text = tokens[at]
    if kind != "open":
        return _atom(kind, text), at + 1
    items: list[Any] = []
    at += 1
    while tokens[at][0] != "close":
        item, at = _read(tokens, at)
        items.append(item)
        if tokens[at][0] == "comma":
            at += 1
    return tuple(items), at + 1


def _atom(kind: str, text: str) -> Operand:
    match kind:
        case "value":
            name, _, index = text[1:].partition("#")
            return Value(name, int(index or 0))
        case "sym":
            return Sym(text[1:-1])
        case "string":
            return json.loads(text)
        case "word":
            return {"none": None, "true": True, "false": False}[text]
        case "number":
            return int(text) if text.lstrip("-").isdigit() else float(text)
        case "torch":
            family, _, member = text.partition(".")
            return torch.device(member) if family == "device" else getattr(torch, member)
        case _:
            raise ValueError(f"unexpected {text!r}")
