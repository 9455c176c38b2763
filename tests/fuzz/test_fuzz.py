"""Spoiled files end in a clean error: the first cases of the sweep, and what the judge itself calls a finding."""

import json
import random

import pytest

from tests.fuzz.mutate import spoiled
from tests.fuzz.run import KINDS, batch, case, judged, make_bases

pytestmark = pytest.mark.target
CASES = 20


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    make_bases(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_spoiled_files_end_in_a_clean_error(kind, bases):
    found = list(batch(kind, list(range(CASES)), 0, bases))
    assert sorted(number for number, _, _ in found) == list(range(CASES))
    assert [(n, said) for n, _, said in found if said] == []
    assert {code for _, code, _ in found} - {0}, "no case was spoiled enough to be refused"


def test_a_case_is_the_same_each_time(bases, tmp_path):
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        case("onnx", 7, 3, bases, tmp_path / name)
        made.append((tmp_path / name / "model.onnx").read_bytes())
    assert made[0] == made[1] != (bases / "0.onnx").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_spoiled_file_is_another_file(kind, bases):
    data = next(bases.glob(f"*.{kind}")).read_bytes()
    assert sum(spoiled(data, kind, random.Random(n)) != data for n in range(20)) > 15


@pytest.mark.parametrize(
    ("code", "out", "told", "untouched", "finding"),
    [
        (2, json.dumps({}), "edgewright: no", True, ""),
        (1, json.dumps({}), "edgewright: internal fault: KeyError", True, "exit code 1"),
        (2, json.dumps({}), "Traceback (most recent call last)", True, "a traceback"),
        (0, json.dumps({}), "", False, "a file"),
        (0, "", "", True, "no JSON"),
    ],
)
def test_what_is_a_finding(code, out, told, untouched, finding):
    said = judged(code, out, told, untouched)
    assert said.startswith(finding) and bool(said) == bool(finding)


def test_a_process_that_dies_costs_one_case(bases, monkeypatch):
    found = list(batch("onnx", [0, 1, 2], 0, bases / "nowhere"))
    assert [n for n, _, _ in found] == [0, 1, 2] and all("ended with" in said for _, _, said in found)
