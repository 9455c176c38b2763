"""ONNX files: read whole, run as torch runs the model they came from, refused where they cannot be trusted."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compiler.errors import UnsupportedModelError, UsageError
from compiler.evaluate import evaluate
from edgewright.models.inputs import parse_input
from edgewright.models.load import load_model
from edgewright.stages import canonicalise, merged
from tests.models.small import randomize

pytestmark = pytest.mark.target

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 8, 8])


def weight(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def output(rank, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info("y", kind, [f"y{i}" for i in range(rank)])


def save(path, nodes, inputs, outputs, weights=(), opset=17):
    stored = [numpy_helper.from_array(array, name) for name, array in weights]
    graph = helper.make_graph(nodes, "net", inputs, outputs, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    return str(path)


def convolution(path, **kwargs):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="first/conv", pads=[1, 1, 1, 1])]
    y = output(4)
    return save(path, nodes, [X], [y], [("w", weight(4, 4, 3, 3))], **kwargs)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.attend, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 5)

    def forward(self, x):
        y = torch.relu(self.norm(self.conv(x)))
        tokens = y.flatten(2).transpose(1, 2)
        return self.head(self.attend(tokens, tokens, tokens)[0].mean(1))


@pytest.mark.parametrize("opset", [14, 17, 18])
def test_an_exported_model_computes_the_same(tmp_path, opset):
    module, x = randomize(Net().eval()), torch.randn(1, 3, 6, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter
        torch.onnx.export(module, (x,), tmp_path / "net.onnx", dynamo=opset == 18, opset_version=opset)
    loaded = load_model(str(tmp_path / "net.onnx"))
    source = canonicalise(loaded)
    wanted = module.double()(x.double())
    torch.testing.assert_close(loaded.call((x,), {})[0].double(), wanted, rtol=1e-5, atol=1e-5)
    for graph in (source.graph, merged(source).graph):
        torch.testing.assert_close(evaluate(graph, [x], torch.float64)[0], wanted, rtol=1e-5, atol=1e-6)
    assert "aten.batch_norm.default" not in merged(source).graph.histogram()


def test_inputs_and_origins_keep_their_names(tmp_path):
    graph = canonicalise(load_model(convolution(tmp_path / "net.onnx"))).graph
    assert [n.name for n in graph.inputs()] == ["x"]
    assert "first_conv" in next(iter(graph.ops())).origin


def test_an_open_batch_is_one_and_can_be_dynamic(tmp_path):
    path = convolution(tmp_path / "net.onnx")
    assert load_model(path).args[0].shape == (1, 4, 8, 8)
    graph = canonicalise(load_model(path, dynamic_batch=True)).graph
    assert not isinstance(graph.inputs()[0].type.shape[0], int)


def test_other_open_sizes_are_asked_for(tmp_path):
    open_ = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, "height", "width"])
    y = output(4)
    path = save(tmp_path / "net.onnx", [helper.make_node("Relu", ["x"], ["y"])], [open_], [y])
    with pytest.raises(UsageError, match=r"x=batchx4xheightxwidth:float32\): give --input"):
        load_model(path)
    assert load_model(path, [parse_input("1x4x5x6")]).args[0].shape == (1, 4, 5, 6)


def test_a_shape_given_as_an_input_must_be_frozen(tmp_path):
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    inputs = [X, helper.make_tensor_value_info("shape", TensorProto.INT64, [2])]
    y = output(2)
    path = save(tmp_path / "net.onnx", nodes, inputs, [y])
    with pytest.raises(UnsupportedModelError, match=r"'shape': freeze it"):
        load_model(path)
    graph = canonicalise(load_model(path, freeze={"shape": [4, 64]})).graph
    assert graph.output.operands and len(graph.inputs()) == 1


def test_sizes_computed_from_shapes_stay_symbolic(tmp_path):
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["b"], axis=0),
        helper.make_node("Concat", ["b", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["x", "to"], ["y"]),
    ]
    y = output(2)
    weights = [("zero", np.array([0])), ("rest", np.array([-1]))]
    path = save(tmp_path / "net.onnx", nodes, [X], [y], weights)
    graph = canonicalise(load_model(path, dynamic_batch=True)).graph
    (result,) = evaluate(graph, [torch.randn(3, 4, 8, 8)])
    assert result.shape == (3, 256)


@pytest.mark.parametrize("opset", [9, 99])
def test_an_opset_we_cannot_read_is_named(tmp_path, opset):
    with pytest.raises(UsageError, match=rf"opset {opset}; accepted: 11 to"):
        load_model(convolution(tmp_path / "net.onnx", opset=opset))


def test_what_is_no_model_is_said_so(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"\x08\x07garbage")
    with pytest.raises(UsageError, match=r"net\.onnx is not"):
        load_model(str(tmp_path / "net.onnx"))
    with pytest.raises(UsageError, match="no file"):
        load_model(str(tmp_path / "missing.onnx"))


def external(path, location):
    model = onnx.load(convolution(path))
    tensor = model.graph.initializer[0]
    raw = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    path.write_bytes(model.SerializeToString())
    return raw


def test_weights_beside_the_model_are_read(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").write_bytes(external(folder / "net.onnx", "w.bin"))
    x = torch.randn(1, 4, 8, 8)
    wanted = load_model(convolution(tmp_path / "inside.onnx")).call((x,), {})[0]
    torch.testing.assert_close(load_model(str(folder / "net.onnx")).call((x,), {})[0], wanted)


@pytest.mark.parametrize("place", ["../w.bin", "{parent}/w.bin", "link/w.bin"])
def test_weights_outside_the_models_folder_are_refused(tmp_path, place):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    raw = external(folder / "net.onnx", place.format(parent=tmp_path))
    (tmp_path / "w.bin").write_bytes(raw)
    with pytest.raises(UsageError, match="outside the model's folder"):
        load_model(str(folder / "net.onnx"))


@pytest.mark.parametrize("place", ["a" * 5000, "w\x00.bin"])
def test_a_name_that_no_file_can_have_is_refused(tmp_path, place):
    external(tmp_path / "net.onnx", place)
    with pytest.raises(UsageError, match="names no file"):
        load_model(str(tmp_path / "net.onnx"))


def test_a_missing_weight_file_is_named(tmp_path):
    external(tmp_path / "net.onnx", "w.bin")
    with pytest.raises(UsageError, match=r"'w\.bin' of the weight 'w' is not beside the model"):
        load_model(str(tmp_path / "net.onnx"))


def test_an_operator_without_counterpart_names_its_node(tmp_path):
    nodes = [helper.make_node("NonZero", ["x"], ["y"], name="find")]
    y = output(2, TensorProto.INT64)
    path = save(tmp_path / "net.onnx", nodes, [X], [y])
    with pytest.raises(UnsupportedModelError, match=r"ONNX node 'find' \(NonZero\): .* depends on data"):
        load_model(path)


def test_a_weight_of_another_size_than_its_shape_is_named(tmp_path):
    path = convolution(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.initializer[0].raw_data += bytes(16)
    onnx.save(model, path)
    with pytest.raises(UsageError, match=r"'w' of shape \[4, 4, 3, 3\] does not hold its elements"):
        load_model(path, None)


def test_an_input_that_no_memory_holds_is_said_so(tmp_path):
    wide = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 1 << 31, 1 << 31])
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    with pytest.raises(UsageError, match=r"elements at most; mend the sizes"):
        load_model(save(tmp_path / "net.onnx", nodes, [wide], [output(4)]), None)
