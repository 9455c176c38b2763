"""What is ONNX Runtime's own: what the exporter knows, the optimised graph, and what failures say."""

import dataclasses
import functools
import logging
import warnings

import onnx
import pytest
import torch
from torch import nn

import edgewright
from compiler.compress.quantize import ir_filter, quantize_int8
from compiler.errors import UnsupportedModelError
from compiler.evaluate import evaluate
from compiler.ir.edit import Editor
from compiler.plan import Decision, Plan
from edgewright.cli import main
from profiles import load_profile
from targets import get_target
from targets.onnxruntime import lower as lowering
from targets.onnxruntime.legalise import legalise
from targets.quiet import quiet
from tests.targets.conftest import PROFILE
from tests.targets.functions import CASES, X, imported

TARGET = get_target("onnxruntime")


SPECIAL = (
    "digamma",
    "erfinv",
    "i0",
    "lgamma",
    "special.bessel_j0",
    "special.bessel_j1",
    "special.i0e",
    "special.i1",
    "special.i1e",
    "special.ndtri",
    "special.spherical_bessel_j0",
)
PAIRS = ("copysign", "fmax", "fmin", "hypot", "igamma", "igammac", "nextafter", "special.zeta")


def refused(graph):
    return {n.name: reason for n in graph.ops() if (reason := TARGET.supports(n))}


def said_and_done(graph, folder):
    """Return whether a graph is said to be supported, and whether it lowers."""
    try:
        TARGET.lower({"forward": graph}, PROFILE, folder)
    except UnsupportedModelError:
        return not refused(graph), False
    return not refused(graph), True


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(
    "case",
    [
        "linear",
        *(
            pytest.param(c, marks=pytest.mark.slow)
            for c in ("convolutions", "activations", "pools", "resizes", "norms", "attention")
        ),
    ],
)
def test_the_types_said_to_have_kernels_have_them(case, dtype, tmp_path):
    said, done = said_and_done(imported(CASES[case], dtype), tmp_path)
    assert said == done


@pytest.mark.parametrize(
    "name",
    [
        "special.i0e",
        "fmax",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in (*SPECIAL, *PAIRS)
            if n not in ("special.i0e", "fmax")
        ),
    ],
)
def test_a_decomposition_that_leads_nowhere_is_known_and_named(name, tmp_path):
    function = functools.reduce(getattr, name.split("."), torch)
    graph = imported(lambda m, x: function(x * 0.5, x) if name in PAIRS else function(x * 0.5))
    [node] = refused(graph)
    with pytest.raises(UnsupportedModelError, match=f"at node '{node}'"):
        TARGET.lower({"forward": graph}, PROFILE, tmp_path)


@pytest.mark.parametrize(
    ("function", "dtype", "reason"),
    [
        (lambda m, x: x.median(1)[0], torch.float32, "torch.onnx has no translation of aten.median.dim"),
        (lambda m, x: torch.histc(x, 4), torch.float32, "a histogram of a given range"),
        (lambda m, x: m.conv(x), torch.bfloat16, "no bfloat16"),
        (lambda m, x: m.conv(x), torch.float64, "no float64 kernel for aten.conv2d.default"),
    ],
)
def test_each_refusal_has_its_reason(function, dtype, reason):
    found = list(refused(imported(function, dtype)).values())
    assert len(found) == 1 and reason in found[0]


def test_the_report_counts_the_optimised_graph(lower, imports):
    module = nn.Sequential(nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.LayerNorm(6))
    report = lower(TARGET, imports(module.eval(), torch.randn(X))).report
    operations = report["operations"]
    assert operations["LayerNormalization"] == 1
    assert not {"Relu", "BatchNormalization"} & set(operations), (
        "the runtime fuses these into the convolution"
    )
    assert sum("Conv" in name for name in operations) == 1
    assert report["delegated_ops"] == sum(operations.values()) and report["outside_ops"] == 0
    assert set(report["seconds"]) == {"export", "translate", "optimise"} and report["program_bytes"] > 0


def test_a_refusal_of_the_runtime_names_the_node_and_module(monkeypatch, tmp_path):
    def refuses(model):
        raise RuntimeError(f"no implementation for Conv(11) node with name 'node_conv2d' {'x' * 5000}")

    monkeypatch.setattr(lowering, "optimised_operations", refuses)
    with pytest.raises(UnsupportedModelError) as caught:
        TARGET.lower({"forward": imported(lambda m, x: m.conv(x) * 2)}, PROFILE, tmp_path)
    message = str(caught.value)
    assert (
        "at node 'conv2d' in module 'conv' (aten.conv2d.default): no implementation for Conv(11)" in message
    )
    assert len(message) < 600 and list(tmp_path.iterdir()) == []


def test_weights_that_no_file_can_hold_are_refused_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setattr(lowering, "LARGEST", 100)
    with pytest.raises(UnsupportedModelError, match="one ONNX file holds at most 100"):
        TARGET.lower({"forward": imported(lambda m, x: m.conv(x))}, PROFILE, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_symbolic_batch_runs_at_its_example_size(lower, imports):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(6, 6, 3, padding=1)

        def forward(self, x):
            return self.conv(x).relu() + x

    x = torch.randn(X)
    lowered = lower(TARGET, imports(Block(), x, dynamic_shapes=({0: torch.export.Dim("n", min=1, max=8)},)))
    assert lowered.error(x) < 1e-5


@pytest.mark.parametrize("lead", [(), (3,)])
def test_attention_over_an_open_number_of_tokens_gets_its_missing_axes(lead, lower, imports):
    class Attention(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x, x)

    x = torch.randn(*lead, 7, 8)
    tokens = {len(lead): torch.export.Dim("tokens", min=1, max=32)}
    assert lower(TARGET, imports(Attention(), x, dynamic_shapes=(tokens,))).error(x) < 1e-5


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x).relu()


class Integer(nn.Module):
    """A relu6, a depthwise convolution, a residual sum, a concatenation, pools, a head."""

    def __init__(self):
        super().__init__()
        self.stem, self.depth = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = nn.functional.relu6(self.stem(x))
        y = (x + self.depth(x)).relu()
        z = nn.functional.max_pool2d(torch.cat([x, y], 1), 2)
        return self.head(nn.functional.avg_pool2d(z, 2).mean((2, 3)))


def quantized(graph, x):
    names = frozenset(n.name for n in graph.ops())
    return quantize_int8(graph, names, TARGET.quantizer(ir_filter(names)), [(x,)])


def test_an_int8_program_runs_on_integer_kernels_alone(imports, lower):
    x = torch.randn(1, 3, 16, 16) + 0.5
    graph = imports(Integer(), x)
    lowered = lower(TARGET, int8 := quantized(graph, x))
    kinds = {kind.removeprefix("com.microsoft.") for kind in lowered.report["operations"]}
    integer = {"QLinearConv", "QLinearAdd", "QLinearConcat", "QLinearAveragePool", "QGemm", "NhwcMaxPool"}
    assert integer <= kinds <= integer | {"QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape"}
    expected = evaluate(int8, [x])[0]
    step = float(expected.max() - expected.min()) / 255
    assert float((lowered.infer(x)[0] - expected).abs().max()) < 1.5 * step


def test_int8_weights_are_stored_as_int8_with_an_axis(imports, lower):
    x = torch.randn(1, 3, 16, 16)
    lowered = lower(TARGET, int8 := quantized(imports(Integer(), x), x))
    model = onnx.load(str(lowered.folder / "model.onnx")).graph
    stored = {t.name for t in model.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1}
    read = [n for n in model.node if n.op_type == "DequantizeLinear" and n.input[0] in stored]
    axes = [a.i for n in read for a in n.attribute if a.name == "axis"]
    assert len(stored) == sum(c.tensor.dtype is torch.int8 for c in int8.constants.values()) == 3
    assert axes == [0, 0, 0]


def test_sums_of_large_products_do_not_saturate(imports, lower):
    linear = nn.Linear(256, 8, bias=False)
    nn.init.constant_(linear.weight, 1.0)
    linear.weight.data[:, ::2] *= 0.99
    x = torch.full((2, 256), 3.0) - torch.rand(2, 256) / 8
    lowered = lower(TARGET, int8 := quantized(imports(linear, x), x))
    expected = evaluate(int8, [x])[0]
    assert float((lowered.infer(x)[0] - expected).abs().max()) < 0.01 * float(expected.max())


def test_a_weight_that_two_layers_share_is_int8_in_both(imports, lower):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            return self.conv(self.conv(x).relu())

    x = torch.randn(1, 4, 8, 8)
    lowered = lower(TARGET, int8 := quantized(imports(Twice(), x), x))
    assert lowered.report["operations"]["com.microsoft.QLinearConv"] == 2
    expected = evaluate(int8, [x])[0]
    assert float((lowered.infer(x)[0] - expected).abs().max()) < 0.02 * float(expected.abs().max())


def test_a_clamp_that_rounding_does_not_repeat_stays(imports):
    class Narrow(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return nn.functional.hardtanh(self.conv(x), -0.25, 0.25)

    x = torch.randn(1, 3, 8, 8)
    int8 = quantized(imports(Narrow(), x), x)
    assert torch.equal(evaluate(legalise(int8), [x])[0], evaluate(int8, [x])[0])
    assert not any(n.op == "aten.hardtanh.default" for n in legalise(int8).ops())
    [quantize] = int8.users("hardtanh")
    editor = Editor(int8)
    wide = tuple((k, 4 * v if k == "scale" else v) for k, v in quantize.operands)
    editor.update(dataclasses.replace(quantize, operands=wide))
    wider = editor.finish()
    assert any(n.op == "aten.hardtanh.default" for n in legalise(wider).ops())


@pytest.fixture
def profile():
    return dataclasses.replace(load_profile("host"), targets=("onnxruntime",))


def test_what_the_sdk_says_meanwhile_stays_off_the_terminal(capfd, caplog):
    with quiet():
        print("Translate the graph into ONNX")  # noqa: T201
        warnings.warn("deprecated", FutureWarning, stacklevel=1)
        logging.getLogger("onnxscript.optimizer").error("a tensor is too large to fold")
    assert capfd.readouterr() == ("", "") and not caplog.records


def test_several_methods_are_refused(tmp_path):
    graph = imported(lambda m, x: m.conv(x))
    with pytest.raises(UnsupportedModelError, match="holds one method, not forward_t1, forward_t5"):
        TARGET.lower({"forward_t1": graph, "forward_t5": graph}, PROFILE, tmp_path)


def test_a_compile_is_verified_in_the_runtime(profile, tmp_path):
    artifact = edgewright.compile(Net().eval(), profile, inputs=torch.randn(1, 3, 8, 8), out=tmp_path / "out")
    assert artifact.manifest["verification"]["runtime"] == "onnxruntime"
    assert artifact.manifest["verification"]["passed"] and artifact.manifest["files"] == [
        "model.onnx",
        "io.json",
    ]


def test_a_plan_that_quantizes_is_compiled_and_verified(profile, tmp_path):
    plan, x = Plan((Decision("segment:conv", "precision", "int8"),)), torch.randn(1, 3, 8, 8)
    out = tmp_path / "out"
    artifact = edgewright.compile(Net().eval(), profile, plan=plan, inputs=x, out=out, calibration=[(x,)])
    assert artifact.manifest["verification"]["passed"]
    assert "int8" in (artifact.folder / "graph_forward.txt").read_text()


def test_the_command_line_ends_with_3_on_a_precision_there_is_not(tmp_path, capsys):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def net():\n    return nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), (torch.randn(1, 3, 8, 8),)\n"
        "def batches():\n    return [(torch.randn(1, 3, 8, 8),)]\n"
    )
    (tmp_path / "plan.txt").write_text("# edgewright plan 1\nsegment:0 precision float16\n")
    model, out = f"{tmp_path / 'net.py'}:net", tmp_path / "out"
    options = ["--plan", str(tmp_path / "plan.txt"), "--calibration", f"{tmp_path / 'net.py'}:batches"]
    code = main(
        ["compile", model, "--profile", "host", "--target", "onnxruntime", "--out", str(out), *options]
    )
    assert (
        code == 3
        and "no precision float16; it has float32, int8" in capsys.readouterr().err
        and not out.exists()
    )
