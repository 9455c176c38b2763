import dataclasses

import pytest
import torch
from torch import nn

from compiler.evaluate import evaluate
from compiler.frontends.torch_export import import_model
from compiler.ir.edit import Editor
from compiler.ir.graph import Graph, Value
from compiler.search import shared_evaluation
from compiler.search.shared_evaluation import base_evaluation, evaluate_variants, variant_evaluation


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.relu(self.a(x))
        z = torch.relu(self.b(y))
        return self.c(z) + y, z


@pytest.fixture
def graph() -> Graph:
    torch.manual_seed(0)
    return import_model(Net().eval(), (torch.randn(2, 6),))


def with_weight(graph: Graph, layer: str) -> Graph:
    """Return a variant in which a layer's weight passes through a product of constants."""
    editor = Editor(graph)
    linear = graph.node(layer)
    weight = linear.operand("weight")
    half = editor.constant(torch.full((6, 6), 0.5), "half", before=layer)
    product = editor.op(
        "aten.mul.Tensor", {"self": weight, "other": half}, graph.node(weight.node).types, before=layer
    )
    operands = tuple((k, product if k == "weight" else v) for k, v in linear.operands)
    editor.update(dataclasses.replace(linear, operands=operands))
    return editor.finish()


@pytest.mark.parametrize("layer", ["linear", "linear_1", "linear_2"])
def test_equals_evaluating_each_variant_on_its_own(graph: Graph, layer: str) -> None:
    variant = with_weight(graph, layer)
    x = torch.randn(2, 6)
    own, found = evaluate_variants(base_evaluation(graph), {"v": variant_evaluation(graph, variant)}, [x])
    for got, expected in [
        *zip(own, evaluate(graph, [x]), strict=True),
        *zip(found["v"], evaluate(variant, [x]), strict=True),
    ]:
        assert torch.equal(got, expected)
    assert not torch.equal(own[0], found["v"][0])


def test_only_what_departs_is_run(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    base, variant = base_evaluation(graph), variant_evaluation(graph, with_weight(graph, "linear_2"))
    assert [n.name for n in variant.rest] == ["linear_2", "add"]
    ran: list[str] = []
    run = shared_evaluation.run_node
    monkeypatch.setattr(
        shared_evaluation, "run_node", lambda node, *rest: (ran.append(node.name), run(node, *rest))
    )
    evaluate_variants(base, {"v": variant}, [torch.randn(2, 6)])
    assert ran == [n.name for n in graph.ops()] + ["linear_2", "add"]


def test_a_weight_of_the_same_name_and_other_content_departs(graph: Graph) -> None:
    editor = Editor(graph)
    editor.graph.constants[graph.node("linear").operand("weight").node] = type(
        next(iter(graph.constants.values()))
    )(torch.ones(6, 6))
    variant = editor.finish()
    x = torch.randn(2, 6)
    _, found = evaluate_variants(base_evaluation(graph), {"v": variant_evaluation(graph, variant)}, [x])
    assert torch.equal(found["v"][0], evaluate(variant, [x])[0])


def test_an_input_read_by_the_departing_node_is_known(graph: Graph) -> None:
    variant = with_weight(graph, "linear")
    assert Value("x") not in variant_evaluation(graph, variant).known
