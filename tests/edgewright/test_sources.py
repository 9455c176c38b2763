"""Models by name: configurations and folders of transformers, models of torchvision, and what cannot be read."""

import json

import pytest
import torch

from compiler.errors import UsageError
from compiler.evaluate import evaluate
from edgewright.models import load_model
from edgewright.models.loaded import tensors
from edgewright.stages import prepare

pytestmark = pytest.mark.target
LLAMA = "tests/zoo/transformers/llama.json"


def agrees(spec):
    """The merged graph's largest relative error against the model's own results."""
    model = load_model(spec, None, randomize=2)
    found = [
        x
        for x in evaluate(prepare(model).graph, tensors(model.args, model.kwargs))
        if isinstance(x, torch.Tensor)
    ]
    wanted = [x for x in model.call(model.args, model.kwargs) if isinstance(x, torch.Tensor)]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True))


def test_experts_are_gathered_by_operations_that_runtimes_have():
    model = load_model("hf:tests/zoo/transformers/mixtral.json", None, randomize=2)
    found = prepare(model).graph.histogram()
    assert all(op.startswith("aten.") for op in found) and "aten.histc.default" not in found


@pytest.mark.parametrize("name", ["llama", "whisper_encoder", "clip_vision"])
def test_a_configuration_is_a_model(name):
    assert agrees(f"hf:tests/zoo/transformers/{name}.json") < 1e-5


def test_the_same_configuration_has_the_same_weights():
    one, two = (load_model(f"hf:{LLAMA}", None).source.state_dict() for _ in range(2))
    assert all(torch.equal(a, two[name]) for name, a in one.items())


def test_a_local_folder_brings_its_weights(tmp_path):
    model = load_model(f"hf:{LLAMA}", None).source
    with torch.no_grad():
        model.lm_head.weight.mul_(3)
    model.save_pretrained(tmp_path / "llama")
    again = load_model(f"hf:{tmp_path / 'llama'}", None)
    assert torch.equal(again.source.lm_head.weight, model.lm_head.weight)
    assert type(again.source).__name__ == "LlamaForCausalLM" and list(again.kwargs) == ["input_ids"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "is not a configuration"),
        (json.dumps({"model_type": "lama"}), "is not a configuration"),
        (json.dumps({"hidden_size": 3}), "is not a configuration"),
        (json.dumps({"model_type": "llama", "architectures": ["LlamaForPoetry"]}), "LlamaForPoetry"),
    ],
)
def test_what_is_no_configuration_is_refused(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_model(f"hf:{path}", None)


def test_a_folder_there_is_not_is_refused_with_what_is_accepted(tmp_path):
    with pytest.raises(UsageError, match=r"cannot be loaded.*accepted: hf:NAME"):
        load_model(f"hf:{tmp_path / 'nothing'}", None)


def test_a_model_of_torchvision():
    assert agrees("torchvision:shufflenet_v2_x0_5") < 1e-5


def test_an_unknown_model_of_torchvision_is_refused_with_its_neighbours():
    with pytest.raises(UsageError, match=r"no model called 'resnet19'; did you mean resnet1"):
        load_model("torchvision:resnet19", None)
