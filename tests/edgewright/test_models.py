"""Model specs, input shapes, seeded inputs and the randomising recipe."""

import sys

import pytest
import torch
from torch import nn

from compiler.errors import UsageError
from edgewright.models import InputSpec, LoadedModel, load_model, parse_input
from edgewright.models.batches import load_batches
from edgewright.models.inputs import describe, redraw
from edgewright.models.randomize import BATCH, randomize


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("1x3x224x224", InputSpec((1, 3, 224, 224))),
        ("ids=1x128:int64", InputSpec((1, 128), torch.int64, "ids")),
        ("7", InputSpec((7,))),
        ("mask=2x2:bool", InputSpec((2, 2), torch.bool, "mask")),
    ],
)
def test_input_shapes_are_read(text, spec):
    assert parse_input(text) == spec


@pytest.mark.parametrize("text", ["", "1x", "x3", "1x3x", "1 x 3", "1x3:float", "=1x3", "1X3", "-1x3"])
def test_other_texts_are_no_shape(text):
    with pytest.raises(UsageError, match="--input"):
        parse_input(text)


@pytest.mark.parametrize("attribute", ["net", "NET"])
def test_a_file_gives_a_module_or_a_callable(models, attribute):
    inputs = [InputSpec((1, 3, 8, 8))] if attribute == "NET" else None
    loaded = load_model(f"{models}:{attribute}", inputs)
    assert isinstance(loaded.source, nn.Module)
    assert describe((loaded.args, loaded.kwargs)) == "1x3x8x8:float32"


def test_inputs_given_replace_those_of_the_callable(models):
    loaded = load_model(f"{models}:net", [InputSpec((2, 3, 6, 6))])
    assert loaded.args[0].shape == (2, 3, 6, 6)


def test_a_package_in_the_working_directory_is_found_and_put_last(models, monkeypatch):
    monkeypatch.chdir(models.parent)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = list(sys.path)
    assert load_model("user_models:net").args
    assert sys.path[: len(before)] == before


def test_a_users_file_cannot_shadow_a_package_of_ours(models, monkeypatch):
    (models.parent / "compiler.py").write_text("NET = 1\n")
    monkeypatch.chdir(models.parent)
    with pytest.raises(UsageError, match="has no attribute 'NET'"):
        load_model("compiler:NET")


def test_a_saved_program_is_loaded_with_its_inputs(models, tmp_path):
    source = load_model(f"{models}:net")
    program = torch.export.export(source.module, source.args)
    torch.export.save(program, tmp_path / "net.pt2")
    loaded = load_model(str(tmp_path / "net.pt2"))
    torch.testing.assert_close(
        loaded.call(source.args, {})[0], source.call(source.args, {})[0], rtol=0, atol=0
    )
    torch.testing.assert_close(load_model(program).args, source.args, rtol=0, atol=0)


def test_a_dynamic_batch_is_marked_on_every_tensor(models):
    loaded = load_model(f"{models}:net", dynamic_batch=True)
    ((dims,),) = (loaded.dynamic_shapes(),)
    assert list(dims) == [0]
    assert loaded.args[0].shape[0] == 2


def test_calls_leave_the_buffers_of_a_model_as_they_were():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            self.seen += 1
            return x + self.seen

    loaded = LoadedModel(Counting().eval(), (torch.zeros(2),))
    assert [loaded.call(loaded.args, {})[0][0].item() for _ in range(3)] == [1, 1, 1]


def test_redrawn_inputs_keep_the_character_of_the_example():
    example = (torch.randn(64, 64) * 5 + 3, torch.tensor([4, 9, 9, 30]), torch.tensor([True, True]), 2.5)
    (floats, integers, flags, number), _ = redraw((example, {}), seed=1)
    assert floats.mean() == pytest.approx(3, abs=0.5)
    assert floats.std() == pytest.approx(5, abs=0.5)
    assert set(integers.tolist()) <= {4, 9, 30}
    assert flags.tolist() == [True, True]
    assert number == 2.5
    assert not torch.equal(floats, redraw((example, {}), seed=2)[0][0])
    assert torch.equal(floats, redraw((example, {}), seed=1)[0][0])


class Scaled(nn.Module):
    """A little of everything that the recipe must move."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        nn.init.zeros_(self.conv.bias)
        self.norm = nn.BatchNorm2d(8)
        self.layer = nn.LayerNorm(8)
        self.gamma = nn.Parameter(1e-6 * torch.ones(8))

    def forward(self, x):
        return self.layer(self.norm(self.conv(x)).mean((2, 3))) * self.gamma


def _scaled(seed):
    torch.manual_seed(0)
    model = LoadedModel(Scaled().eval(), (torch.randn(1, 3, 12, 12),))
    randomize(model, seed)
    return model


def test_the_recipe_leaves_nothing_at_its_neutral_value():
    model = _scaled(1).module
    for parameter in (model.norm.weight, model.layer.weight, model.gamma):
        assert (parameter >= 0.5).all()
        assert (parameter <= 1.5).all()
        assert parameter.std() > 0
    for parameter in (model.norm.bias, model.layer.bias, model.conv.bias, model.norm.running_mean):
        assert parameter.abs().min() > 0
    assert (model.norm.running_var != 1).all()
    assert not any(m.training for m in model.modules())
    assert model.norm.momentum == 0.1


def test_the_recipe_follows_the_activations():
    model = _scaled(1)
    x = torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        seen = model.module.conv(x).var((0, 2, 3))
    assert (model.module.norm.running_var / seen).log().abs().max() < 0.5


def test_a_channel_that_is_silent_gets_a_variance_of_its_neighbours_size():
    silent = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    with torch.no_grad():
        silent[0].weight.copy_(torch.tensor([-1.0, 1.0, 1.0, 2.0])[:, None, None, None])
    randomize(LoadedModel(silent, (torch.rand(1, 3, 8, 8),)), 1)
    variance = silent[2].running_var
    assert 0.07 * variance.median() < variance[0] < 0.2 * variance.median()


def test_statistics_are_those_of_what_deviating_layers_before_give():
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.ReLU()) for _ in range(12)]
    model = LoadedModel(nn.Sequential(*blocks, nn.BatchNorm2d(6)).eval(), (torch.randn(1, 6, 8, 8),))
    randomize(model, 1)
    (x,), _ = redraw((model.args, model.kwargs), 1, BATCH)
    with torch.no_grad():
        variance, mean = torch.var_mean(model.module[:-1](x), (0, 2, 3))
    last = model.module[-1]
    assert ((last.running_mean - mean).abs() < 0.21 * variance.sqrt()).all()
    assert ((last.running_var / variance - 1).abs() < 0.21).all()


def test_the_recipe_is_a_function_of_its_seed():
    first, second, other = (_scaled(s).call((torch.ones(1, 3, 12, 12),), {})[0] for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_an_exported_program_cannot_be_randomized(models, tmp_path):
    source = load_model(f"{models}:net")
    torch.export.save(torch.export.export(source.module, source.args), tmp_path / "net.pt2")
    with pytest.raises(UsageError, match="exported program"):
        load_model(str(tmp_path / "net.pt2"), randomize=1)


def test_timm_models_come_in_eval_mode_at_their_own_size():
    loaded = load_model("timm:resnet18")
    assert describe((loaded.args, {})) == "1x3x224x224:float32"
    assert not loaded.module.training


def test_a_misspelt_timm_model_is_told():
    with pytest.raises(UsageError, match=r"did you mean .*mobileone_s0"):
        load_model("timm:mobileone_s00")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("import torch\nbatches = [torch.ones(1), (torch.ones(1), 2)]", 2),
        ("import torch\ndef batches():\n    for i in range(3):\n        yield torch.ones(i)", 3),
    ],
)
def test_batches_are_read(tmp_path, text, count):
    (tmp_path / "data.py").write_text(text)
    batches = load_batches(f"{tmp_path / 'data.py'}:batches")
    assert len(batches) == count
    assert all(isinstance(b, tuple) for b in batches)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("batches = []", "no batch"),
        ("batches = 3", "not a sequence"),
        ("batches = ['a']", "no tensor"),
        ("def batches():\n    yield 1 / 0", "data.py:2"),
    ],
)
def test_what_is_no_batch_is_told(tmp_path, text, words):
    (tmp_path / "data.py").write_text(text)
    with pytest.raises(UsageError, match=words):
        load_batches(f"{tmp_path / 'data.py'}:batches")
