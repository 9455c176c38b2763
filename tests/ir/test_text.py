"""Text IR: prints, parses back equal, and says which line it cannot read."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.errors import UsageError
from compiler.evaluate import evaluate
from compiler.ir.digest import content_digest, structure_digest
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Sym, TensorType, Value
from compiler.ir.text import parse_graph, print_graph, window
from compiler.ir.verify import verify

TEXT = """graph {
  symbols {"n0": [1, 64]}
  %x = input : float32[n0, 4]
  %w = constant "0000000000000000" : float32[4, 4]  @ "head.weight"
  %y = aten.linear.default(input=%x, weight=%w, bias=none) : float32[n0, 4]  @ "head"
  %s = aten.split.Tensor(self=%y, split_size=2, dim=1) : float32[n0, 2] | float32[n0, 2]
  return(r0=%s, r1=%s#1, r2=none, r3=3)
}
"""


def test_text_round_trip_is_equal_text() -> None:
    graph = parse_graph(TEXT)
    assert print_graph(graph) == TEXT
    assert parse_graph(print_graph(graph)) == graph


def test_a_size_in_the_example_call_is_part_of_the_text() -> None:
    text = TEXT.replace("[1, 64]", "[1, 64, 5]")
    graph = parse_graph(text)
    assert (print_graph(graph), graph.symbols["n0"].example) == (text, 5)


@pytest.mark.parametrize("limits", ["[1]", "[1, 2, 3, 4]", "5"])
def test_limits_of_a_symbol_that_are_none_are_told(limits: str) -> None:
    with pytest.raises(UsageError, match=r"line 2: .*symbols"):
        parse_graph(TEXT.replace("[1, 64]", limits))


def test_parsed_graph_runs_with_tensors() -> None:
    w = torch.randn(4, 4)
    graph = parse_graph(TEXT, {"w": w})
    verify(graph)
    x = torch.randn(3, 4)
    first, second, none, three = evaluate(graph, [x])
    torch.testing.assert_close(torch.cat([first, second], 1), x @ w.T)
    assert (none, three) == (None, 3)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.sampled_from(
        [torch.float32, torch.int64, torch.strided, torch.contiguous_format, torch.device("cpu")]
    ),
    st.sampled_from([Sym("n0"), Sym("2*n0 + 1"), Value("x"), Value("s", 1)]),
)
OPERANDS = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)


@given(OPERANDS)
@settings(max_examples=300, deadline=None)
def test_every_operand_round_trips(operand: object) -> None:
    from compiler.ir.text import _parse_operand, print_operand

    again = _parse_operand(print_operand(operand))
    assert again == operand
    assert type(again) is type(operand)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e-5, 1e300])
def test_odd_floats_round_trip(value: float) -> None:
    from compiler.ir.text import _parse_operand, print_operand

    again = _parse_operand(print_operand(value))
    assert again == value or (math.isnan(again) and math.isnan(value))


def test_unreadable_line_is_named() -> None:
    with pytest.raises(UsageError, match=r"line 5: .*'nope'"):
        parse_graph(TEXT.replace("bias=none", "bias=none, nope=1"))
    with pytest.raises(UsageError, match=r"line 6"):
        parse_graph(TEXT.replace("dim=1) :", "dim=1 :"))


def test_window_is_short_and_marks_the_node() -> None:
    graph = _chain(200)
    text = window(graph, "relu_100")
    assert len(text.splitlines()) == 7
    assert text.splitlines()[3].startswith("-> %relu_100 ")


def test_digests_ignore_names_and_structure_ignores_weights() -> None:
    graph = parse_graph(TEXT, {"w": torch.ones(4, 4)})
    renamed = parse_graph(TEXT.replace("%y", "%other"), {"w": torch.ones(4, 4)})
    trained = parse_graph(TEXT, {"w": torch.zeros(4, 4)})
    assert structure_digest(graph) == structure_digest(renamed) == structure_digest(trained)
    assert content_digest(graph) == content_digest(renamed) != content_digest(trained)
    assert structure_digest(graph) != structure_digest(
        parse_graph(TEXT.replace("[r", "[r").replace("dim=1", "dim=-1"))
    )


def _chain(length: int) -> Graph:
    editor = Editor()
    type_ = TensorType((2, 2), torch.float32)
    value = editor.input("x", type_)
    for _ in range(length):
        value = editor.op("aten.relu.default", {"self": value}, (type_,))
    editor.output([value])
    return editor.finish()
