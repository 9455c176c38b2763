"""Training the small networks: seeded, resumed without a difference, refused where it belongs to another lesson."""

import dataclasses

import pytest
import torch

from benchmarks import trained
from benchmarks.trained import digits, shapes, states, text
from benchmarks.trained import train as training
from benchmarks.trained.lessons import BY_NAME, LESSONS
from benchmarks.trained.train import train
from compiler.errors import UsageError


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


DRAWS = {
    "repvgg": shapes.draw,
    "mobilenet_v2": shapes.draw,
    "vit": lambda count, seed: tuple(part[:count] for part in digits.epoch(seed)),
    "gpt": lambda count, seed: text.windows(text.Part.TRAIN, count, seed),
}


def small(name, epochs=1, count=32):
    """A lesson of one network with very little data."""
    draw = DRAWS[name]
    inputs, labels = draw(16, 1)
    return dataclasses.replace(
        BY_NAME[name],
        epoch=lambda seed: draw(count, seed),
        calibration=lambda: draw(20, 2)[0],
        test=lambda: (inputs, labels if labels.ndim == 1 else labels[:, -1]),
        epochs=epochs,
        batch=16,
    )


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_each_network_trains_for_an_epoch_and_is_read_back(lesson, tmp_path):
    quick = small(lesson.name)
    told = []
    state = train(quick, tmp_path, tell=told.append)
    assert len(state.losses) == 1 and 0 <= state.accuracy <= 1 and "epoch 1 of 1" in told[0]
    assert [p.name for p in tmp_path.iterdir()] == [f"{lesson.name}.pt"]
    found = trained.trained(quick, tmp_path)
    assert not found.module.training and found.name == lesson.name
    assert all(torch.equal(v, state.weights[k]) for k, v in found.module.state_dict().items())
    logits = found.module(*found.example_inputs)
    assert logits.ndim == 2 and len(logits) == 1
    assert [len(x) for (x,) in found.calibration] == [16, 4]


def test_a_training_that_is_done_is_not_done_again(tmp_path):
    quick, told = small("vit"), []
    first = train(quick, tmp_path)
    assert train(quick, tmp_path, tell=told.append).losses == first.losses and not told


def test_a_training_cut_short_ends_with_the_same_weights(tmp_path):
    lesson = small("vit", epochs=3)
    whole = train(lesson, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(lesson, tmp_path / "cut", tell=_stop_after(2))
    assert (tmp_path / "cut" / "vit.partial.pt").exists()
    told = []
    again = train(lesson, tmp_path / "cut", tell=told.append)
    assert len(told) == 1 and again.losses == whole.losses
    assert all(torch.equal(v, whole.weights[k]) for k, v in again.weights.items())


def test_another_seed_trains_another_network(tmp_path):
    lesson = small("gpt")
    assert train(lesson, tmp_path / "a", seed=0).losses != train(lesson, tmp_path / "b", seed=1).losses


def test_training_learns(tmp_path):
    losses = train(small("gpt", epochs=3, count=128), tmp_path).losses
    assert losses[-1] < losses[0] - 0.5


def test_a_network_not_trained_or_trained_otherwise_is_refused(tmp_path):
    lesson = small("vit")
    with pytest.raises(UsageError, match=r"benchmarks\.trained\.train vit --out"):
        trained.trained(lesson, tmp_path)
    train(lesson, tmp_path)
    with pytest.raises(UsageError, match="holds no vit"):
        states.read_state(dataclasses.replace(lesson, rate=2e-3), tmp_path)


def test_an_unknown_network_is_refused_by_name(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train", "resnet"])
    with pytest.raises(SystemExit):
        training.main()
    assert "there are repvgg, mobilenet_v2, vit, gpt" in capsys.readouterr().err


def _stop_after(epochs):
    def tell(message):
        if f"epoch {epochs} of" in message:
            raise KeyboardInterrupt

    return tell
