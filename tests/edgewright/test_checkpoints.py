"""Checkpoints as people write them, and what is said of those that do not fit."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from compiler.errors import UsageError
from edgewright.checkpoints import read_state, state_of, untrained_keys
from tests.edgewright.soups import ingredient


def test_a_checkpoint_is_read_in_all_its_wrappings(tmp_path):
    state = ingredient(1).state_dict()
    untied = {key: value.clone() for key, value in state.items() if key != "again.weight"}
    save_file(untied, tmp_path / "a.safetensors")
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "b.ckpt")
    torch.save(
        {key: v.double() if v.is_floating_point() else v for key, v in state.items()}, tmp_path / "c.pt"
    )
    for name in ("a.safetensors", "b.ckpt", "c.pt"):
        found = state_of(tmp_path / name, ingredient(0), name)
        assert list(found) == list(state)
        assert all(
            torch.equal(found[key], state[key]) and found[key].dtype == state[key].dtype for key in state
        )
        assert found["again.weight"].data_ptr() == found["head.weight"].data_ptr()


def _written(folder, name, value):
    torch.save(value, folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"epoch": 3, "optimizer": {}}, "holds no state dict .* epoch, optimizer"),
        ([torch.ones(1)], "holds no state dict .* list"),
        (nn.Linear(2, 2), "cannot be read as weights"),
    ],
)
def test_a_file_without_a_state_dict_is_told(tmp_path, value, words):
    with pytest.raises(UsageError, match=words):
        read_state(_written(tmp_path, "x.pt", value))


def test_a_missing_or_torn_file_is_told(tmp_path):
    with pytest.raises(UsageError, match="no checkpoint"):
        read_state(tmp_path / "none.pt")
    (tmp_path / "torn.safetensors").write_bytes(b"\x08\x00")
    with pytest.raises(UsageError, match=r"torn\.safetensors cannot be read"):
        read_state(tmp_path / "torn.safetensors")


def test_another_architecture_is_told_by_its_first_key():
    state = ingredient(1).state_dict()
    wide = {**state, "conv.weight": torch.ones(6, 3, 5, 5)}
    with pytest.raises(
        UsageError,
        match=r"'conv.weight' is float32\[6, 3, 3, 3\] in the model and float32\[6, 3, 5, 5\] in x",
    ):
        state_of(wide, ingredient(0), "x")
    less = {key: value for key, value in state.items() if key != "norm.bias"}
    with pytest.raises(UsageError, match=r"the model has 'norm.bias' and x has not"):
        state_of(less, ingredient(0), "x")
    untied = {**state, "again.weight": state["again.weight"] + 1}
    with pytest.raises(UsageError, match="tied in the model and differ in x"):
        state_of(untied, ingredient(0), "x")


def test_buffers_are_told_apart():
    found = untrained_keys(ingredient(0))
    assert found.tables == {"places"}
    assert found.statistics == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
