"""What is TVM's own: two importers, a check of what was built, and the label of untuned code."""

import pytest
import torch
from torch import nn
from torch.nn import functional as f

from compiler.compress.quantize import NAMESPACE, ir_filter, quantize_int8
from compiler.errors import UnsupportedModelError
from compiler.evaluate import evaluate
from edgewright.cli import main
from targets import get_target
from targets.tvm import lower as lowering
from targets.tvm.legalise import legalise
from tests.targets.conftest import PROFILE
from tests.targets.functions import X, imported

TARGET = get_target("tvm")


def sampled(m, x):
    grid = torch.stack(
        torch.meshgrid(torch.linspace(-1, 0.8, 5), torch.linspace(-0.7, 1, 5), indexing="xy"), -1
    )
    return f.grid_sample(x, grid.expand(2, 5, 5, 2), align_corners=False)


def test_the_importer_of_exported_programs_is_taken_first(lower):
    report = lower(TARGET, imported(lambda m, x: m.conv(x).relu())).report
    assert report["importer"] == "torch.export" and report["refused"] == {}
    assert report["kernels"] == {"fused_conv2d_add_relu": 1} and report["delegated_ops"] == 1


def test_an_operation_the_first_importer_lacks_comes_by_way_of_onnx(lower):
    x = torch.rand(X) + 0.5
    lowered = lower(TARGET, imported(lambda m, x: torch.histc(x, 4, 0, 2) + 1))
    assert lowered.report["importer"] == "onnx" and "histc" in lowered.report["refused"]["torch.export"]
    assert lowered.error(x) < 1e-6


def test_a_wrong_grid_sample_is_never_silent(tmp_path):
    """Both importers of TVM 0.26 build it and give it a wrong shape, without an error."""
    with pytest.raises(UnsupportedModelError, match=r"shape \(2, 6, 5, 2\) .* in place of \(2, 6, 5, 5\)"):
        TARGET.lower({"forward": imported(sampled)}, PROFILE, tmp_path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda y: y * 1.1, "wrong by"),
        (lambda y: y[:1], r"shape \(2, 6, 8, 8\) for output 0 in place of \(1, 6, 8, 8\)"),
        (lambda y: torch.where(y > 1, torch.nan, y), "NaN in other places"),
        (lambda y: y.double(), "float32 for output 0 in place of float64"),
    ],
)
def test_what_computes_something_else_is_refused_by_both_ways(monkeypatch, tmp_path, spoil, message):
    true = lowering.evaluate
    monkeypatch.setattr(lowering, "evaluate", lambda graph, inputs: [spoil(y) for y in true(graph, inputs)])
    with pytest.raises(
        UnsupportedModelError, match=f"torch.export: .*{message}.*; by way of onnx: .*{message}"
    ):
        TARGET.lower({"forward": imported(lambda m, x: x.abs() + 1)}, PROFILE, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_infinite_results_are_compared_by_place(lower):
    assert lower(TARGET, imported(lambda m, x: torch.log(x - 1))).report["importer"] == "torch.export"


def test_several_methods_are_refused(tmp_path):
    graph = imported(lambda m, x: m.linear(x))
    with pytest.raises(UnsupportedModelError, match="holds one method"):
        TARGET.lower({"forward_t1": graph, "forward_t5": graph}, PROFILE, tmp_path)


def test_untuned_code_is_labelled_wherever_its_latency_appears(tmp_path, capsys):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def net():\n    return nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), (torch.randn(1, 3, 8, 8),)\n"
    )
    out = tmp_path / "out"
    assert main(["compile", f"{tmp_path / 'net.py'}:net", "--target", "tvm", "--out", str(out)]) == 0
    assert "tvm for profile host (untuned)" in capsys.readouterr().out
    assert main(["profile", str(out), "--device", "local", "--allow-unstable"]) == 0
    assert "(untuned)" in capsys.readouterr().out
    assert main(["profile", str(out), "--device", "local", "--allow-unstable", "--json"]) == 0
    assert '"tuned": false' in capsys.readouterr().out


def test_legalising_keeps_what_an_int8_graph_computes(imports):
    x = torch.randn(2, 4, 8, 8) + 0.5
    graph = imports(nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)), x)
    names = frozenset(n.name for n in graph.ops())
    quantized = quantize_int8(graph, names, TARGET.quantizer(ir_filter(names)), [(x,)])
    legal = legalise(quantized)
    assert not any(n.op.startswith(NAMESPACE) for n in legal.ops()) and legalise(graph) is graph
    assert torch.equal(evaluate(legal, [x])[0], evaluate(quantized, [x])[0])


def test_complex_numbers_are_refused():
    refused = [TARGET.supports(n) for n in imported(lambda m, x: torch.fft.fft(x).abs()).ops()]
    assert "TVM computes no complex numbers" in refused
