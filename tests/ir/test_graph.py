"""The editor keeps order, edges and operands in step; verify names what breaks the law."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from compiler.errors import GraphError, UsageError
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Node, TensorType, Value
from compiler.ir.storage import load_graph, save_graph
from compiler.ir.text import print_graph
from compiler.ir.verify import verify

T = TensorType((2, 2), torch.float32)


def small() -> Graph:
    editor = Editor()
    x = editor.input("x", T)
    w = editor.constant(torch.randn(2, 2), "w", "layer.weight")
    y = editor.op("aten.mul.Tensor", {"self": x, "other": w}, (T,))
    z = editor.op("aten.add.Tensor", {"self": y, "other": y}, (T,))
    editor.output([z])
    return editor.finish()


def test_editing_leaves_the_original_alone() -> None:
    graph = small()
    before = print_graph(graph)
    editor = Editor(graph)
    new = editor.op("aten.relu.default", {"self": Value("x")}, (T,), before="add")
    editor.replace_uses(Value("mul"), new)
    editor.remove_unread(["mul"])
    changed = editor.finish()
    verify(changed)
    assert print_graph(graph) == before
    assert [n.name for n in changed.ops()] == ["relu", "add"]
    assert not changed.constants
    assert changed.node("add").operand("self") == changed.node("add").operand("other") == Value("relu")


def test_defaults_stand_in_the_node() -> None:
    assert small().node("add").operand("alpha") == 1


def test_names_are_readable_and_free() -> None:
    editor = Editor(small())
    assert editor.name("0.weight") == "n_0_weight"
    assert editor.name("A/B") == "a_b"
    assert editor.name("mul") == "mul_1"
    assert editor.name("output") == "output_1"


def test_removing_what_is_read_is_refused() -> None:
    with pytest.raises(ValueError, match="'add'"):
        Editor(small()).remove("mul")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda n: dataclasses.replace(n, op="aten.mul_.Tensor"), "functional"),
        (lambda n: dataclasses.replace(n, op="aten.nothing.default"), "no operator"),
        (lambda n: dataclasses.replace(n, operands=(*n.operands, ("extra", 1))), r"unknown \['extra'\]"),
        (lambda n: dataclasses.replace(n, operands=n.operands[:1]), r"missing \['other'\]"),
        (lambda n: dataclasses.replace(n, types=()), "no output type"),
        (lambda n: dataclasses.replace(n, operands=(("self", Value("x", 3)), n.operands[1])), "output 3"),
    ],
)
def test_verify_names_the_breach(break_it, message: str) -> None:
    editor = Editor(small())
    editor.update(break_it(editor.graph.node("mul")))
    with pytest.raises(GraphError, match=message) as caught:
        verify(editor.finish())
    assert "->" in str(caught.value)
    assert len(str(caught.value).splitlines()) < 10


def test_verify_sees_cycles_and_stray_edges() -> None:
    editor = Editor(small())
    editor.update(
        dataclasses.replace(
            editor.graph.node("mul"), operands=(("self", Value("add")), ("other", Value("w")))
        )
    )
    with pytest.raises(GraphError, match="cycle"):
        verify(editor.finish())
    stray = small()
    stray.nx.add_edge("x", "add", key="other.9", index=0)
    with pytest.raises(GraphError, match="edges and operands differ"):
        verify(stray)


def test_verify_sees_a_tensor_of_the_wrong_type() -> None:
    graph = small()
    graph.nx.nodes["w"]["node"] = Node("w", graph.node("w").kind, types=(TensorType((9,), torch.float32),))
    with pytest.raises(GraphError, match="its tensor is"):
        verify(graph)


def test_storage_round_trip(tmp_path) -> None:
    graph = small()
    save_graph(graph, tmp_path / "g.json")
    again = load_graph(tmp_path / "g.json")
    assert again == graph
    torch.testing.assert_close(again.constants["w"].tensor, graph.constants["w"].tensor)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g.json", "g.safetensors"]


def test_storage_refuses_changed_weights(tmp_path) -> None:
    save_graph(small(), tmp_path / "g.json")
    save_graph(small(), tmp_path / "h.json")
    (tmp_path / "h.safetensors").rename(tmp_path / "g.safetensors")
    with pytest.raises(UsageError, match="weight 'w'"):
        load_graph(tmp_path / "g.json")
    (tmp_path / "g.json").write_text("{}")
    with pytest.raises(UsageError, match="schema"):
        load_graph(tmp_path / "g.json")
    with pytest.raises(UsageError, match="not a stored graph"):
        load_graph(tmp_path / "none.json")
