"""What measured programs consist of: kept once, read back by label."""

import pytest
import sqlalchemy as sa

from devices.programs import keep_program, kept_programs


def test_programs_are_kept_once_and_read_back(database) -> None:
    assert kept_programs(database) == {}
    for label, graph in (("program a", "graph {}"), ("program b", "graph { }"), ("program a", "another")):
        keep_program(database, label, graph)
    assert kept_programs(database) == {"program a": "graph {}", "program b": "graph { }"}


def test_a_kept_program_cannot_be_changed(database) -> None:
    keep_program(database, "program a", "graph {}")
    with pytest.raises(sa.exc.IntegrityError, match="append-only"), database._engine.begin() as connection:
        connection.execute(sa.text("UPDATE program SET graph = ''"))
