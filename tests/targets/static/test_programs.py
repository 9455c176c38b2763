"""The same C and kernels that go to a phone, built for this machine and run."""

import pytest
import torch
from torch import nn

from compiler.evaluate import evaluate
from targets.tvm.static import EXECUTABLE, TWIN, WEIGHTS
from tests.targets.static.programs import MODELS, Bytes, Types, mobilenet

SLOW = {"mobilenetv2_035"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in MODELS])
def test_a_static_program_agrees_with_float64(build, name):
    module, draw = MODELS[name]
    lowered = build(name, module(), draw())
    assert lowered.report["route"] == "static" and "static_refused" not in lowered.report
    assert lowered.error(*draw()) < 1e-5
    assert lowered.error(*draw()) < 1e-5
    sizes = {n: (lowered.folder / n).stat().st_size for n in (EXECUTABLE, WEIGHTS)}
    assert sizes == {EXECUTABLE: lowered.report["executable_bytes"], WEIGHTS: lowered.report["weights_bytes"]}
    assert lowered.report["verified"] == "program" and not (lowered.folder / TWIN).exists()


@pytest.mark.slow
def test_weights_lie_beside_the_executable_and_values_share_an_arena(build):
    lowered = build("mobilenetv2_035", mobilenet(), MODELS["mobilenetv2_035"][1]())
    report = lowered.report
    assert report["weights_bytes"] >= report["constant_bytes"] > 4 * report["executable_bytes"] / 5
    values = [v for n in lowered.graph.ops() for v in n.types]
    assert report["arena_bytes"] < sum(4 * int(torch.Size(v.shape).numel()) for v in values) / 3


def test_int8_weights_and_values(build):
    x = torch.randn(3, 16)
    lowered = build("bytes", Bytes(), (x,))
    for got, expected in zip(lowered.infer(x), evaluate(lowered.graph, (x,)), strict=True):
        assert got.dtype == expected.dtype and torch.equal(got, expected)


def test_every_type_at_the_boundary(build):
    inputs = (
        torch.randn(2, 3).half(),
        torch.tensor([0, 200, 254], dtype=torch.uint8),
        torch.tensor([[-127, 5]], dtype=torch.int8),
        torch.tensor(-70000 // 2, dtype=torch.int32),
        torch.tensor([2, 0], dtype=torch.int64),
        torch.tensor([True, False]),
    )
    lowered = build("types", Types(), inputs)
    found, expected = lowered.infer(*inputs), evaluate(lowered.graph, inputs)
    assert [y.dtype for y in found] == [y.dtype for y in expected]
    assert all(torch.equal(y, e) for y, e in zip(found, expected, strict=True))
    again, expected = lowered.infer(*(t.flip(0) if t.dim() else t for t in inputs)), found
    assert not torch.equal(again[0], expected[0]) and torch.equal(again[7], expected[7])


def test_a_program_that_computes_nothing_returns_a_view(build):
    x = torch.randn(2, 6)
    lowered = build("view", nn.Unflatten(1, (2, 3)), (x,))
    assert torch.equal(lowered.infer(x)[0], x.reshape(2, 2, 3)) and lowered.report["arena_bytes"] == 0
    assert lowered.talk({"do": "profile", "iterations": 2})[0][1] == {"operations": []}
