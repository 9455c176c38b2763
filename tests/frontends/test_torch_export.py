"""In and out: import, evaluate, export, and what is refused with its source line."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compiler.errors import UnsupportedModelError
from compiler.evaluate import evaluate, evaluate_with_state
from compiler.export import export_graph
from compiler.frontends.torch_export import import_model, import_program
from compiler.ir.graph import Graph, Kind, Sym
from compiler.ir.text import parse_graph, print_graph
from compiler.merge import merge
from compiler.passes import PIPELINE
from tests.models.small import randomize


def _passes(graph: Graph) -> Graph:
    for _, run in PIPELINE:
        graph = run(graph)
    return merge(graph)[0]


class Convolutional(nn.Module):
    """A convolution, its BatchNorm and a strided pool, any spatial size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6)
        self.skip = nn.Conv2d(3, 6, 1, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.conv(x)) + self.skip(x)).flatten(2).transpose(1, 2)


@pytest.mark.parametrize(
    "dynamic", [{0: "batch"}, {0: "batch", 2: "height", 3: "width"}], ids=["batch", "all"]
)
def test_symbolic_dimensions_survive_the_round_trip(dynamic: dict[int, str]) -> None:
    module = randomize(Convolutional())
    shapes = {"x": {axis: torch.export.Dim.AUTO for axis in dynamic}}
    graph = _passes(import_model(module, (torch.randn(2, 3, 9, 12),), dynamic_shapes=shapes))
    assert isinstance(graph.inputs()[0].type.shape[0], Sym)
    assert graph.histogram()["aten.conv2d.default"] == 1
    program = export_graph(graph)
    again = import_program(program)
    assert isinstance(again.inputs()[0].type.shape[0], Sym)
    for size in ((1, 3, 9, 12), (5, 3, 9, 12)) if len(dynamic) == 1 else ((3, 3, 10, 7), (2, 3, 15, 16)):
        x = torch.randn(size)
        with torch.no_grad():
            wanted = copy.deepcopy(module).double()(x.double())
            got = program.module()(x)
        assert (got - wanted).abs().max() < 1e-5
        assert (evaluate(again, [x], torch.float64)[0] - wanted).abs().max() < 1e-5


class Counter(nn.Module):
    """A model with state: a running sum that the next call reads."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total.add_(x.sum(0))
        return self.total * 2


def test_buffer_mutation_is_an_explicit_effect_and_survives() -> None:
    graph = _passes(import_model(Counter().eval(), (torch.randn(2, 3),)))
    assert [n.kind for n in graph.writes()] == [Kind.WRITE]
    assert "write(state=%total" in print_graph(graph)
    assert parse_graph(print_graph(graph)) == graph
    x = torch.randn(2, 3)
    _, writes = evaluate_with_state(graph, [x])
    torch.testing.assert_close(writes["total"], x.sum(0))
    module, reference = export_graph(graph).module(), Counter().eval()
    for _ in range(3):
        torch.testing.assert_close(module(x), reference(x))
    assert graph.constants["total"].tensor.abs().sum() == 0
    assert [n.kind for n in import_program(export_graph(graph)).writes()] == [Kind.WRITE]


def test_a_frozen_buffer_may_be_folded_but_a_state_may_not() -> None:
    graph = _passes(import_model(Counter().eval(), (torch.randn(2, 3),)))
    assert any(n.kind is Kind.STATE for n in graph.nodes())
    assert graph.histogram()["aten.mul.Tensor"] == 1


class Structured(nn.Module):
    """Keyword arguments, a dict, a literal, None and a repeated output."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(
        self, a: torch.Tensor, batch: dict[str, torch.Tensor], *, scale: Any = None, flag: bool = True
    ) -> Any:
        y = self.linear(a) + batch["b"]
        return {"y": y * scale if flag else y, "none": None, "three": 3, "again": (a, y)}


def test_the_call_structure_is_restored() -> None:
    module = Structured().eval()
    args, kwargs = (torch.randn(2, 4), {"b": torch.randn(2, 4)}), {"scale": torch.rand(1), "flag": True}
    program = export_graph(import_model(module, args, kwargs))
    got, wanted = program.module()(*args, **kwargs), module(*args, **kwargs)
    assert list(got) == list(wanted)
    assert got["three"] == 3
    torch.testing.assert_close(got["y"], wanted["y"])
    torch.testing.assert_close(got["again"][1], wanted["again"][1])


def test_a_result_whose_type_has_no_name_comes_back_flat() -> None:
    class Decomposed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.svd(x)

    x = torch.randn(3, 4)
    graph = import_model(Decomposed().eval(), (x,))
    again = export_graph(graph).module()(x)
    assert type(again) is tuple
    assert all(torch.equal(a, b) for a, b in zip(again, torch.linalg.svd(x), strict=True))


def test_exported_names_are_clean_and_nodes_remember_the_ir() -> None:
    graph = import_model(
        randomize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())), (torch.randn(1, 3, 6, 6),)
    )
    program = export_graph(graph)
    assert [n.name for n in program.graph.nodes if n.op == "placeholder"][-1] == graph.inputs()[0].name
    assert all(name[0].isalpha() and "." not in name for name in program.state_dict)
    calls = [n for n in program.graph.nodes if n.op == "call_function"]
    assert [n.meta["custom"]["ir_node"] for n in calls] == [n.name for n in graph.ops()]


def test_origin_and_source_point_at_the_users_code() -> None:
    graph = import_model(randomize(Convolutional()), (torch.randn(2, 3, 9, 12),))
    conv = next(n for n in graph.ops() if n.op == "aten.conv2d.default")
    assert conv.origin == "conv"
    assert conv.source.startswith(__file__)


def test_pt2_files_import(tmp_path) -> None:
    module, x = randomize(Convolutional()), torch.randn(2, 3, 9, 12)
    torch.export.save(torch.export.export(module, (x,)), tmp_path / "m.pt2")
    graph = import_program(torch.export.load(tmp_path / "m.pt2"))
    torch.testing.assert_close(evaluate(graph, [x])[0], module(x))


class StandardisedConv(nn.Module):
    """A convolution whose weight is standardised by a batch norm over it (timm's ScaledStdConv2d)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3, 3, 3))
        self.gain = nn.Parameter(torch.rand(6) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = self.weight.reshape(1, 6, -1)
        weight = F.batch_norm(flat, None, None, weight=self.gain, training=True, momentum=0.0, eps=1e-3)
        return F.conv2d(x, weight.reshape_as(self.weight))


def test_a_standardised_weight_becomes_a_constant() -> None:
    module, x = StandardisedConv().eval(), torch.randn(2, 3, 8, 8)
    graph = _passes(import_model(module, (x,)))
    assert [n.op for n in graph.ops()] == ["aten.conv2d.default"]
    torch.testing.assert_close(evaluate(graph, [x])[0], module(x))


def test_batch_norm_without_running_statistics_normalises_by_its_input() -> None:
    module, x = nn.BatchNorm2d(3, eps=1e-2, track_running_stats=False).eval(), torch.randn(4, 3, 5, 5) * 3 + 1
    nn.init.uniform_(module.weight, 0.5, 2.0)
    nn.init.uniform_(module.bias)
    graph = import_model(module, (x,))
    torch.testing.assert_close(evaluate(graph, [x])[0], module(x))


class Random(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


class DrawsPermutation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight[torch.randperm(4)]


class WritesInput(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.mul_(2)
        return x + 1


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x + 1
        return x - 1


class DataShape(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[x > 0].sum()


class NestedResults(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.histogramdd(x, [2, 2, 2, 2])[0]


class Conditional(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda v: v + 1, lambda v: v - 1, (x,))


class Broken(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ torch.zeros(7, 7)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Random(), "draws random numbers"),
        (DrawsPermutation(), "draws random numbers"),
        (WritesInput(), "writes its input 'x'"),
        (Branches(), "depend on data"),
        (DataShape(), "depends? on data"),
        (Conditional(), "not supported"),
        (NestedResults(), "returns a list of tensors inside a tuple"),
        (Broken(), "cannot be exported"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "",
)
def test_refusals_name_the_source_line(module: nn.Module, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        import_model(module.eval(), (torch.randn(4, 4),))
    assert __file__ in str(caught.value)
    assert len(str(caught.value)) < 900


def test_training_mode_is_refused_with_advice() -> None:
    module = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    with pytest.raises(UnsupportedModelError, match=r"call \.eval\(\)"):
        import_model(module, (torch.randn(1, 3, 4, 4),))
    module.eval()[1].train()
    with pytest.raises(UnsupportedModelError, match="module '1'"):
        import_model(module, (torch.randn(1, 3, 4, 4),))
    with pytest.raises(UnsupportedModelError, match=r"call \.eval\(\)"):
        import_program(torch.export.export(module, (torch.randn(1, 3, 4, 4),)))
