"""The data that the small networks learn from: made by a seed, in parts that share nothing, learnable but hard."""

import itertools

import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.trained import digits, shapes, text
from benchmarks.trained.lessons import BY_NAME

PARTS = [digits.Part.TRAIN, digits.Part.CALIBRATION, digits.Part.TEST]


DRAWS = {
    "shapes": lambda seed: shapes.draw(40, seed),
    "digits": digits.epoch,
    "text": lambda seed: text.windows(text.Part.TRAIN, 40, seed),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_seed_makes_the_same_data_and_another_seed_other_data(draw):
    first, again, other = draw(1000), draw(1000), draw(1001)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("name", ["repvgg", "vit", "gpt"])
def test_calibration_and_test_data_hold_enough_and_are_of_one_form(name):
    lesson = BY_NAME[name]
    pool, (inputs, labels) = lesson.calibration(), lesson.test()
    assert len(inputs) == len(labels) >= 490 and len(pool) >= 400
    assert inputs.shape[1:] == pool.shape[1:] and inputs.dtype == pool.dtype
    assert labels.ndim == 1 and labels.dtype == torch.int64


def test_fewer_pictures_are_the_first_of_more(monkeypatch):
    monkeypatch.setattr(shapes, "CHUNK", 50)
    few, many = shapes.draw(100, 5), shapes.draw(120, 5)
    assert all(torch.equal(a, b[:100]) for a, b in zip(few, many, strict=True))


def test_every_class_of_shapes_comes_about_as_often():
    _, classes = shapes.draw(600, 3)
    counts = torch.bincount(classes, minlength=12)
    assert len(shapes.CLASSES) == 12 and counts.min() > 25 and counts.max() < 80


def test_pictures_of_shapes_are_told_apart_by_a_linear_probe_but_not_easily():
    """Neither place nor angle counts in the strength of each frequency, of which texture and outline have their own."""
    (train, labels), (test, expected) = shapes.draw(1000, 8), shapes.draw(400, 9)
    probe = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2).fit(_strengths(train), labels)
    share = probe.score(_strengths(test), expected)
    assert 3 / 12 < share < 0.9


def test_digits_are_told_apart_by_their_nearest_neighbours():
    train, test = (digits.part(which, 1) for which in (digits.Part.TRAIN, digits.Part.TEST))
    probe = KNeighborsClassifier(5).fit(train[0].flatten(1), train[1])
    assert 0.3 < probe.score(test[0].flatten(1), test[1]) < 0.97


def test_what_follows_a_window_is_better_guessed_by_its_last_byte_than_by_the_commonest():
    windows, following = text.windows(text.Part.TRAIN, 4000, 1)
    counts = torch.zeros(text.SYMBOLS, text.SYMBOLS)
    counts.index_put_((windows.flatten(), following.flatten()), torch.ones(()), accumulate=True)
    test, expected = text.windows(text.Part.TEST, 500, 2)
    share = (counts.argmax(1)[test] == expected).double().mean()
    commonest = (counts.sum(0).argmax() == expected).double().mean()
    assert commonest + 0.08 < share < 0.5


def test_no_digit_is_in_two_parts():
    parts = [range(1797)[which.value] for which in PARTS]
    assert [len(p) for p in parts] == [900, 400, 497]
    assert not any(set(a) & set(b) for a, b in itertools.combinations(parts, 2))


def test_no_block_of_text_is_in_two_parts():
    taken = [i for which in text.Part for i in which.value]
    assert sorted(taken) == list(range(10))
    inside = {which: {bytes(b.tolist()) for b in text._blocks(which)} for which in text.Part}
    assert not any(inside[a] & inside[b] for a, b in itertools.combinations(text.Part, 2))


def test_a_window_is_followed_by_what_stands_next():
    windows, following = text.windows(text.Part.TEST, 3, 0)
    assert torch.equal(windows[:, 1:], following[:, :-1])
    prose = text.PROSE.read_text(encoding="ascii")
    assert all(
        bytes([*w.tolist(), f[-1].item()]).decode() in prose for w, f in zip(windows, following, strict=True)
    )


def test_prose_is_the_documents_without_tables_and_code_then_the_docstrings(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "compiler").mkdir()
    (tmp_path / "README.md").write_text("First.\n\n| a | b |\n|---|---|\n\n```\nmake\n```\nLast – of it.\n")
    (tmp_path / "CONTRIBUTING.md").write_text("")
    source = '"""Of a module."""\n\n\nclass A:\n    """Of a class."""\n\n    def f(self):\n        return 1\n'
    (tmp_path / "compiler" / "a.py").write_text(source)
    assert text.collect(tmp_path) == "First.\n\nLast  of it.\n\nOf a module.\nOf a class."


def _strengths(pictures):
    """The logarithm of the Fourier spectrum's strength, averaged over colours and rings of one frequency and four angles."""
    grey = pictures.mean(1) - pictures.mean((1, 2, 3))[:, None, None]
    power = torch.fft.fftshift(torch.fft.fft2(grey).abs() ** 2, dim=(1, 2))
    line = torch.arange(shapes.SIZE) - shapes.SIZE // 2
    radius = (line[:, None] ** 2 + line[None, :] ** 2).double().sqrt().round().long().flatten()
    rings = torch.zeros(len(pictures), int(radius.max()) + 1).index_add_(1, radius, power.flatten(1))
    peaks = torch.stack([power.flatten(1)[:, radius == r].topk(4).values for r in range(1, 16)], 1).flatten(1)
    return torch.log(torch.cat([rings, peaks], 1) + 1e-3)
