"""int8: near the float graph, weights per channel, unselected operations float, equal in the runtime."""

import copy
import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from compiler.compress.quantize import NAMESPACE, ir_filter, quantize_int8, quantized_nodes
from compiler.compress.restore import restore
from compiler.device import DeviceProfile
from compiler.errors import UnsupportedModelError, UsageError
from compiler.evaluate import evaluate
from compiler.export import export_graph
from compiler.frontends.torch_export import import_model, import_program
from compiler.passes import PIPELINE
from compiler.records import Artifact
from targets import get_target
from targets.quiet import quiet

pytestmark = pytest.mark.target
TARGET = get_target("executorch")
SHAPE = (1, 3, 16, 16)


class Net(nn.Module):
    """Residuals, relu, relu6, hardswish, a concatenation, a mean and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6())
        self.wide = nn.Sequential(nn.Conv2d(8, 16, 1), nn.ReLU())
        self.depth = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Hardswish())
        self.narrow = nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        y = x + self.narrow(self.depth(self.wide(x)))
        return self.head(torch.cat([x, y], 1).mean((2, 3)))


@pytest.fixture(scope="module")
def graph():
    torch.manual_seed(0)
    made = import_model(Net().eval(), (torch.randn(SHAPE),))
    for _, run in PIPELINE:
        made = run(made)
    return made


@pytest.fixture(scope="module")
def batches():
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(4, *SHAPE[1:], generator=generator),) for _ in range(2)]


@pytest.fixture(scope="module")
def full(graph, batches):
    return int8(graph, everything(graph), batches)


def int8(graph, names, batches, progress=None):
    return quantize_int8(graph, names, TARGET.quantizer(ir_filter(names)), batches, progress)


def everything(graph):
    return frozenset(n.name for n in graph.ops())


def of_module(graph, *paths):
    return frozenset(n.name for n in graph.ops() if n.origin.split(".")[0] in paths)


def snr_db(graph, other, x):
    expected, got = evaluate(graph, [x], torch.float64)[0], evaluate(other, [x])[0]
    return 10 * float(torch.log10(expected.square().sum() / (got - expected).square().sum()))


def test_all_of_it_is_near_the_float_graph(graph, full, batches):
    assert 25 < snr_db(graph, full, batches[0][0][:1]) < 80
    weighted = {n.name for n in graph.ops() if n.op in ("aten.conv2d.default", "aten.linear.default")}
    # Hardswish has no int8 kernel: the convolution before it is int8 all the same.
    assert weighted <= quantized_nodes(full) and "add" in quantized_nodes(full)


def test_names_origins_and_inputs_are_the_float_graph_s(graph, full, batches):
    assert [n.name for n in full.inputs()] == [n.name for n in graph.inputs()]
    assert full.signature == graph.signature
    for node in graph.ops():
        assert full.node(node.name).op == node.op and full.node(node.name).origin == node.origin


def test_weights_have_a_scale_for_each_output_channel(graph, full, batches):
    for name, constant in graph.constants.items():
        if name.endswith("weight"):
            stored = full.constants[f"{name}_int8"].tensor
            assert stored.dtype is torch.int8 and stored.shape == constant.tensor.shape
            scale = full.constants[f"{name}_scale"].tensor.double()
            assert scale.shape == (constant.tensor.shape[0],)
            back = stored.double() * scale.reshape(-1, *(1,) * (stored.ndim - 1))
            error = (back - constant.tensor.double()).abs().amax(tuple(range(1, stored.ndim)))
            assert bool((error <= 0.5001 * scale).all())


def test_what_was_not_selected_stays_float(graph, batches):
    chosen = of_module(graph, "wide", "depth")
    quantized = int8(graph, chosen, batches)
    assert quantized_nodes(quantized) == {n for n in chosen if graph.node(n).op == "aten.conv2d.default"}
    floats = [n for n in graph.constants if n.startswith(("stem", "narrow", "head"))]
    assert floats and all(quantized.constants[n] == graph.constants[n] for n in floats)
    ours = {f"{value.node}" for n in chosen for _, value in graph.node(n).values()}
    for node in quantized.ops():
        if node.op == f"{NAMESPACE}quantize_per_tensor.default":
            source = node.operand("input").node
            assert source in chosen or source in ours


def test_a_concatenation_that_was_not_selected_stays_float(graph, batches):
    chosen = everything(graph) - {"cat", "mean"}
    quantized = int8(graph, chosen, batches)
    assert [u.name for u in quantized.users("cat")] == ["mean"]


def test_without_clamps_it_is_the_stock_quantizer_s_result(batches):
    with quiet():
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
    net = Net()
    net.stem[1] = nn.ReLU()
    plain = import_model(net.eval(), (torch.randn(SHAPE),))
    stock = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    expected = quantize_int8(plain, everything(plain), stock, batches)
    assert int8(plain, everything(plain), batches) == expected


def test_a_clamp_is_rounded_once(graph, full, batches):
    conv = next(n for n in graph.ops() if n.origin == "stem.0")
    assert [u.op for u in full.users(conv.name)] == ["aten.hardtanh.default"]


def test_the_runtime_computes_what_the_quantized_graph_says(graph, batches, tmp_path):
    x = batches[1][0][:1]
    for i, names in enumerate((everything(graph), of_module(graph, "wide", "head"))):
        quantized = int8(graph, names, batches)
        folder = tmp_path / str(i)
        report = TARGET.lower({"forward": quantized}, DeviceProfile("t", "", "local", (), 1), folder).report
        assert report["outside"] == []
        expected, got = evaluate(quantized, [x])[0], infer(folder, x)
        step = (expected.max() - expected.min()) / 255
        assert float((got - expected).abs().max()) <= 3 * float(step)
        assert snr_db(graph, quantized, x) > 25


def infer(folder, x):
    (folder / "x.bin").write_bytes(x.numpy().tobytes())
    spec = TARGET.run_spec(Artifact(folder, {}), DeviceProfile("t", "", "local", (), 1))
    files = {name: str(path) for name, path in spec.files.items()} | {"python": sys.executable}
    request = json.dumps({"do": "infer", "inputs": [str(folder / "x.bin")], "outputs": str(folder)})
    command = [part.format(**files) for part in spec.command]
    done = subprocess.run(command, input=request, text=True, capture_output=True, check=True)
    out = json.loads(done.stdout.splitlines()[-1])["outputs"][0]
    data = bytearray(Path(out["path"]).read_bytes())
    return torch.frombuffer(data, dtype=torch.float32).reshape(out["shape"])


def test_batches_are_split_and_progress_is_told(graph, full, batches):
    told = []
    singles = [(x,) for batch in batches for x in batch[0].split(1)]
    assert int8(graph, everything(graph), singles, lambda done, of: told.append((done, of))) == full
    assert told == [(i, 8) for i in range(1, 9)]


def test_a_symbolic_batch_is_calibrated_whole_and_kept(batches):
    dims = {"x": {0: torch.export.Dim("n", min=1, max=16)}}
    plain = import_model(Net().eval(), (torch.randn(2, *SHAPE[1:]),), dynamic_shapes=dims)
    told = []
    quantized = int8(plain, everything(plain), batches, lambda done, of: told.append(of))
    assert told == [2, 2] and quantized.inputs()[0].type == plain.inputs()[0].type
    assert evaluate(quantized, [batches[0][0]])[0].shape == (4, 10)


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ((torch.zeros(1, 3, 16, 15),), r"'x' must be float32\[1, 3, 16, 16\].*\[1, 3, 16, 15\]"),
        ((torch.zeros(SHAPE, dtype=torch.float64),), "must be torch.float32"),
        ((torch.zeros(SHAPE), torch.zeros(SHAPE)), "must hold 1 inputs, got 2"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(graph, batch, says):
    with pytest.raises(UsageError, match=says):
        int8(graph, everything(graph), [batch])


def test_no_batches_are_refused(graph):
    with pytest.raises(UsageError, match="at least one batch"):
        int8(graph, everything(graph), [])


def test_a_selection_with_nothing_to_quantize_is_refused(graph, batches):
    names = frozenset(n.name for n in graph.ops() if n.op == "aten.hardswish.default")
    with pytest.raises(UnsupportedModelError, match="none of the 1 selected"):
        int8(graph, names, batches)


def test_restoring_what_did_not_change_is_the_same_graph(graph):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = export_graph(graph).run_decompositions({})
    sources = {n.name: n.meta.get("custom", {}).get("ir_node", "") for n in program.graph.nodes}
    restored = restore(import_program(program), copy.copy(graph), sources)
    x = torch.randn(SHAPE)
    assert {n.name for n in restored.ops()} == everything(graph)
    assert torch.equal(evaluate(restored, [x])[0], evaluate(graph, [x])[0])
