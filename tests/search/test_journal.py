from pathlib import Path

import pytest

from compiler.errors import UsageError
from compiler.search.journal import Journal

IDENTITY = {"model": "a", "calibration": "b"}


def test_finished_work_is_not_done_again(tmp_path: Path) -> None:
    calls: list[int] = []
    for _ in range(2):
        journal = Journal(tmp_path / "j.jsonl", IDENTITY)
        assert journal.once(lambda: calls.append(1) or {"mean": 0.5}, "cost", "p1") == {"mean": 0.5}
    assert calls == [1]


def test_another_identity_starts_empty(tmp_path: Path) -> None:
    Journal(tmp_path / "j.jsonl", IDENTITY).put(1, "cost")
    assert Journal(tmp_path / "j.jsonl", {**IDENTITY, "model": "c"}).get("cost") is None
    assert Journal(tmp_path / "j.jsonl", IDENTITY).get("cost") is None  # and what it replaced is gone


def test_without_resume_it_starts_empty(tmp_path: Path) -> None:
    Journal(tmp_path / "j.jsonl", IDENTITY).put(1, "cost")
    assert len(Journal(tmp_path / "j.jsonl", IDENTITY, resume=False)) == 0


def test_a_line_cut_off_by_a_crash_is_dropped_and_the_next_append_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    Journal(path, IDENTITY).put(1, "a")
    with path.open("a") as file:
        file.write('{"key": ["b"], "val')
    journal = Journal(path, IDENTITY)
    assert (journal.get("a"), journal.get("b")) == (1, None)
    journal.put(2, "b")
    assert Journal(path, IDENTITY).get("b") == 2


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="journal"):
        Journal(tmp_path / "file" / "j.jsonl", IDENTITY)
