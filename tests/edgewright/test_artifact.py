"""An artifact folder stands complete or not at all."""

import errno
import json
import os
from pathlib import Path

import pytest

from compiler.errors import NumericError, UsageError
from edgewright.artifact import SCHEMA, building, files_digest, read_artifact, write_json, write_text

MANIFEST = {
    "schema": SCHEMA,
    **dict.fromkeys(("model", "target", "profile", "plan", "plan_digest", "artifact_digest"), "0"),
    "files": ["model.bin"],
    **{name: {} for name in ("versions", "lowering", "verification", "sizes_bytes")},
    "methods": [
        {
            "name": "forward",
            "graph_digest": "0",
            "operations": {},
            "placements": [],
            "inputs": [],
            "outputs": [],
        }
    ],
}


def _write(folder: Path, text: str = "program") -> None:
    write_text(folder / "model.bin", text)
    write_json(folder / "manifest.json", MANIFEST)


def test_a_finished_build_stands_where_it_was_asked_for(tmp_path):
    out = tmp_path / "deep" / "out"
    with building(out) as folder:
        _write(folder)
        assert not out.exists()
    assert sorted(p.name for p in out.iterdir()) == ["manifest.json", "model.bin"]
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    assert read_artifact(out).manifest["files"] == ["model.bin"]


@pytest.mark.parametrize("error", [NumericError("wrong"), RuntimeError("broke"), KeyboardInterrupt()])
def test_an_early_end_leaves_nothing(tmp_path, error):
    with pytest.raises(type(error)), building(tmp_path / "out") as folder:
        _write(folder)
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_early_end_keeps_what_stood_there(tmp_path):
    out = tmp_path / "out"
    with building(out) as folder:
        _write(folder, "first")
    with pytest.raises(NumericError), building(out) as folder:
        _write(folder, "second")
        raise NumericError("wrong")
    assert (out / "model.bin").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_artifact_is_replaced_whole(tmp_path):
    out = tmp_path / "out"
    with building(out) as folder:
        _write(folder)
        write_text(folder / "older.txt", "x")
    with building(out) as folder:
        _write(folder, "new")
    assert sorted(p.name for p in out.iterdir()) == ["manifest.json", "model.bin"]
    assert (out / "model.bin").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("content", [{"notes.txt": "mine"}, {"manifest.json": '{"schema": "theirs"}'}])
def test_a_folder_of_someone_else_is_left_alone(tmp_path, content):
    out = tmp_path / "out"
    out.mkdir()
    for name, text in content.items():
        (out / name).write_text(text)
    with pytest.raises(UsageError, match="did not write"), building(out):
        pytest.fail("the block must not run")
    assert {p.name: p.read_text() for p in out.iterdir()} == content


def test_a_file_in_the_way_is_told(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(UsageError, match="is a file"), building(tmp_path / "out"):
        pytest.fail("the block must not run")


def test_an_unwritable_folder_is_told(tmp_path, monkeypatch):
    def refuse(self, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with (
        pytest.raises(UsageError, match=r"cannot write .*out: Permission denied"),
        building(tmp_path / "out"),
    ):
        pytest.fail("the block must not run")


def test_a_file_above_the_folder_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="cannot write"), building(tmp_path / "file" / "out"):
        pytest.fail("the block must not run")


def _full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _full_inside_an_sdk(*_, **__):
    try:
        _full()
    except OSError as error:
        raise RuntimeError("serialising failed") from error


@pytest.mark.parametrize("failure", [_full, _full_inside_an_sdk])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch, failure):
    with pytest.raises(UsageError, match="the disk is full"), building(tmp_path / "out") as folder:
        _write(folder)
        monkeypatch.setattr(Path, "write_text", failure)
        _write(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_in_the_last_flush_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(UsageError, match="the disk is full"), building(tmp_path / "out") as folder:
        _write(folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda out: (out / "model.bin").unlink(), "model.bin is missing"),
        (lambda out: (out / "manifest.json").unlink(), "has no manifest"),
        (lambda out: (out / "manifest.json").write_text("{"), "cannot be read"),
        (lambda out: (out / "manifest.json").write_text(json.dumps({"schema": "other/1"})), "not of schema"),
    ],
)
def test_a_damaged_artifact_is_told(tmp_path, damage, words):
    out = tmp_path / "out"
    with building(out) as folder:
        _write(folder)
    damage(out)
    with pytest.raises(UsageError, match=words):
        read_artifact(out)


def test_the_digest_depends_on_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("1")
    first = files_digest(tmp_path, ["a"])
    assert files_digest(tmp_path, ["b"]) != first
    (tmp_path / "a").write_text("2")
    assert files_digest(tmp_path, ["a"]) != first


def test_a_searchs_folder_stands_for_the_artifact_in_it(tmp_path):
    with building(tmp_path / "found" / "artifact") as folder:
        _write(folder)
    assert read_artifact(tmp_path / "found").folder == tmp_path / "found" / "artifact"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model", None, "'model' is not a str"),
        ("lowering", [], "'lowering' is not a dict"),
        ("files", ["../../etc/passwd"], "no file name"),
        ("files", [3], "no file name"),
        ("files", ["a" * 5000], "no file name"),
        ("methods", [], "'methods' is empty"),
        ("methods", [None], "no valid 'name'"),
        ("methods", [MANIFEST["methods"][0] | {"name": "../x"}], "no valid 'name'"),
        ("methods", [MANIFEST["methods"][0] | {"operations": 3}], "no valid 'operations'"),
    ],
)
def test_a_manifest_s_fields_are_checked(tmp_path: Path, field, value, message) -> None:
    (tmp_path / "model.bin").write_bytes(b"1")
    write_json(tmp_path / "manifest.json", MANIFEST | {field: value})
    with pytest.raises(UsageError, match=message):
        read_artifact(tmp_path)
