"""Segments: each operation once, contiguous, balanced, named by module, bytes across counted."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compiler.compress.segments import segments, work
from compiler.frontends.torch_export import import_model
from compiler.ir.edit import Editor
from compiler.ir.graph import TensorType
from compiler.ir.schema import normalize


def chain(paths, channels=4, skip=(), activations=None):
    """A chain of convolutions, each followed by a relu of its own module; `skip` adds earlier results."""
    editor = Editor()
    type_ = TensorType((1, channels, 8, 8), torch.float32)
    values = [editor.input("x", type_)]
    for i, path in enumerate(paths):
        weight = editor.constant(torch.zeros(channels, channels, 1, 1), f"w{i}", f"{path}.conv.weight")
        x = values[-1]
        if i in skip:
            operands = normalize("aten.add.Tensor", (x, values[1]), {})
            x = editor.op("aten.add.Tensor", dict(operands), [type_], origin="")
        conv = dict(normalize("aten.conv2d.default", (x, weight), {}))
        x = editor.op("aten.conv2d.default", conv, [type_], origin=path)
        relu = editor.op("aten.relu.default", {"self": x}, [type_], origin=f"{activations or path}.{i}")
        values.append(relu)
    editor.output([values[-1]])
    return editor.finish()


def names(cut):
    return [s.site for s in cut]


def test_each_block_is_a_segment_where_the_numbers_allow():
    cut = segments(chain([f"blocks.{i}" for i in range(8)]))
    assert names(cut) == [f"segment:blocks.{i}" for i in range(8)]
    assert [len(s.nodes) for s in cut] == [2] * 8


def test_neighbours_are_joined_where_there_are_many():
    cut = segments(chain([f"blocks.{i}" for i in range(24)]))
    assert 6 <= len(cut) <= 12
    assert cut[0].site == "segment:blocks.0..blocks.1" and {len(s.nodes) for s in cut} == {4}


def test_a_small_model_has_fewer():
    assert names(segments(chain(["stem", "head"]))) == ["segment:stem", "segment:head"]


def test_an_empty_graph_has_none():
    editor = Editor()
    editor.output([editor.input("x", TensorType((1,), torch.float32))])
    assert segments(editor.finish()) == ()


def test_an_activation_stays_with_what_it_activates():
    graph = chain([f"convs.{i}" for i in range(7)], activations="acts")
    cut = segments(graph, 14, 14)
    assert names(cut) == [f"segment:convs.{i}" for i in range(7)]


def test_bytes_across_count_each_value_once_a_reader():
    graph = chain([f"b.{i}" for i in range(6)], skip=(3, 4))
    cut = {s.site: s for s in segments(graph)}
    one = 4 * 8 * 8 * 4
    assert cut["segment:b.0"].boundary_bytes["segment:b.1"] == one
    # The additions have no module: each goes with the operation before it.
    assert cut["segment:b.0"].boundary_bytes == {"segment:b.1": one, "segment:b.2": one, "segment:b.3": one}
    assert cut["segment:b.5"].boundary_bytes == {}


def test_a_module_that_comes_back_has_two_sites():
    cut = segments(chain(["a", "b", "a", "b", "a", "b"]))
    assert names(cut)[:4] == ["segment:a", "segment:b", "segment:a#2", "segment:b#2"]


def test_a_heavy_module_is_opened():
    cut = segments(
        chain(["stem", *(f"stages.0.{i}" for i in range(6)), *(f"stages.1.{i}" for i in range(6)), "head"])
    )
    total = sum(len(s.nodes) for s in cut)
    assert max(len(s.nodes) for s in cut) <= total / 6 + 2 and len(cut) >= 6


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=30),
    st.integers(1, 6),
    st.integers(0, 6),
)
def test_every_operation_is_in_one_contiguous_segment(path_parts, low, more):
    graph = chain([".".join(map(str, parts[: 1 + sum(parts) % 3])) for parts in path_parts])
    cut = segments(graph, low, low + more)
    order = [n.name for n in graph.ops()]
    flat = [name for s in cut for name in sorted(s.nodes, key=order.index)]
    assert flat == order
    assert 1 <= len(cut) <= low + more and len(set(names(cut))) == len(cut)
    assert segments(graph, low, low + more) == cut


def test_wrong_limits_are_refused():
    with pytest.raises(ValueError, match="low <= high"):
        segments(chain(["a"]), 4, 3)


def test_sites_do_not_depend_on_weights_or_names():
    def model(seed):
        torch.manual_seed(seed)
        body = nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU6()) for _ in range(7)))
        return import_model(body.eval(), (torch.randn(1, 3, 32, 32),))

    assert names(segments(model(0))) == names(segments(model(1)))


def test_work_counts_multiply_accumulates():
    graph = chain(["a"], channels=4)
    conv, relu = graph.ops()
    assert work(graph, conv) == 4 * 64 * 4 and work(graph, relu) == 4 * 64
