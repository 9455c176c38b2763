"""The database: append-only, shared, and plain about files that are not its own."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pytest
import sqlalchemy as sa

from compiler.device import BenchmarkProtocol
from compiler.errors import UsageError
from compiler.records import DeviceState, Metric, Round
from devices.database import Header, MeasurementDatabase
from devices.verdict import conclude

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request, tmp_path: Path) -> str:
    """A database that is not there yet, in a file and on a server."""
    if request.param == "sqlite":
        return str(tmp_path / "measurements.sqlite")
    return request.getfixturevalue("postgres").database()


@pytest.fixture
def database(where: str):
    with MeasurementDatabase(where) as opened:
        yield opened


def header(**fields) -> Header:
    values = {
        "artifact_digest": "a", "graph_digest": "g", "plan_digest": "p", "profile": "host",
        "profile_digest": "pd", "protocol_digest": "qd", "device": "local",
        "fingerprint": {"machine": "m", "processor": "x \u00fc"}, "metric": Metric.WALL, "threads": 1,
        "plan": "# edgewright plan 1\n", "target": {"executorch": "1"}, "load_ns": 3, "first_ns": 2**40,
    }  # fmt: skip
    return Header(**values | fields)


def made(index: int) -> Round:
    state = DeviceState(2**60 + index, 41.5, (1000.0, 2000.5), "schedutil", 0.25, 80.0, "none")
    samples = (1, 2**62, index)
    return Round(index, samples, state, DeviceState(5), (0, 3), also={Metric.CPU: (7, 8, 9)})


def verdict(rounds):
    return conclude(rounds, Metric.WALL, 1, BenchmarkProtocol())


def test_what_was_written_reads_back_equal(database) -> None:
    row = database.begin(header())
    rounds = tuple(made(i) for i in range(6))
    for one in rounds:
        database.append(row, Metric.WALL, one)
    assert database.rounds(row) == rounds
    assert (database.measurements(), database.latest()) == ((), None)
    conclusion = verdict(rounds)
    database.finish(row, conclusion)
    (found,) = database.measurements()
    assert (found.rounds, found.statistics) == (conclusion.rounds, conclusion.statistics)
    assert (found.fingerprint, found.metric) == (header().fingerprint, Metric.WALL)
    assert (found.load_ns, found.first_ns, found.stable) == (3, 2**40, conclusion.stable)


def test_only_unfinished_measurements_of_the_key_are_taken_up(database) -> None:
    first = database.begin(header())
    database.append(first, Metric.WALL, made(0))
    database.finish(first, verdict([made(0)]))
    assert database.unfinished(header().key) is None
    second = database.begin(header())
    database.begin(header(series="other"))
    assert database.unfinished(header().key) == second


def test_queries_filter_by_column_and_refuse_other_names(database) -> None:
    for graph in ("g1", "g2", "g2"):
        row = database.begin(header(graph_digest=graph))
        database.append(row, Metric.WALL, made(0))
        database.finish(row, verdict([made(0)]))
    assert len(database.measurements(graph_digest="g2")) == 2
    assert len(database.measurements(graph_digest="g2", profile="other")) == 0
    assert database.latest(id=1).graph_digest == "g1"
    with pytest.raises(UsageError, match=r"no column 'graph'; accepted: .*graph_digest"):
        database.measurements(graph="g1")
    with pytest.raises(UsageError, match="no measurement 99"):
        database.rounds(99)


def test_rows_can_be_neither_changed_nor_deleted(database) -> None:
    row = database.begin(header())
    database.append(row, Metric.WALL, made(0))
    database.finish(row, verdict([made(0)]))
    statements = ['DELETE FROM "{}"', 'UPDATE "{}" SET created_ns = 0']
    if database._engine.dialect.name == "postgresql":
        statements.append('TRUNCATE "{}" CASCADE')
    for table, statement in product(("measurement", "round", "finished", "schedule_trial"), statements):
        if table == "schedule_trial" and "TRUNCATE" not in statement:
            continue  # empty: no row to fire for; tests/devices/test_schedules.py has rows
        words = pytest.raises(sa.exc.IntegrityError, match="append-only")
        with database._engine.connect() as plain, words:
            plain.exec_driver_sql(statement.format(table))
    assert database.rounds(row) == (made(0),) and len(database.measurements()) == 1


def test_sqlite_waits_for_the_disk_and_lets_readers_by(tmp_path: Path) -> None:
    with MeasurementDatabase(tmp_path / "m.sqlite") as database, database._engine.connect() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {p}").scalar() for p in ("journal_mode", "synchronous")
        ]
    assert pragmas == ["wal", 2]


def test_the_same_round_twice_is_refused_and_the_first_stays(database) -> None:
    row = database.begin(header())
    database.append(row, Metric.WALL, made(0))
    with pytest.raises(UsageError, match="another process writes the same measurement"):
        database.append(row, Metric.WALL, made(0))
    with pytest.raises(UsageError):
        database.append(row + 1, Metric.WALL, made(0))
    assert database.rounds(row) == (made(0),)


WRITER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("test_database", sys.argv[1])
module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
with module.MeasurementDatabase(sys.argv[2]) as database:
    row = database.begin(module.header(series=sys.argv[3]))
    for i in range(10):
        database.append(row, module.Metric.WALL, module.made(i))
"""


def test_many_may_make_one_database_at_the_same_moment(where: str) -> None:
    start = threading.Barrier(8)

    def make() -> None:
        start.wait()
        MeasurementDatabase(where).close()

    with ThreadPoolExecutor(8) as pool:
        for made_by_one in [pool.submit(make) for _ in range(8)]:
            made_by_one.result()


def test_several_processes_write_at_once(where: str) -> None:
    command = [sys.executable, "-c", WRITER, __file__, where]
    writers = [subprocess.Popen([*command, str(i)], cwd=ROOT) for i in range(4)]
    assert [w.wait(120) for w in writers] == [0] * 4
    with MeasurementDatabase(where) as database:
        assert all(database.rounds(i) == tuple(made(k) for k in range(10)) for i in (1, 2, 3, 4))
        assert {row.series for row in database._rows()} == {"0", "1", "2", "3"}


def test_summaries_begin_with_a_text_taken_literally(database) -> None:
    for series in ("a_1", "ab1", "a_2", "other"):
        row = database.begin(header(series=series))
        database.append(row, Metric.WALL, made(0))
        database.finish(row, verdict([made(0)]))
    found = database.summaries("a_", metric=Metric.WALL)
    assert [s.series for s in found] == ["a_1", "a_2"] and found[0].target == {"executorch": "1"}
    assert found[0].statistics == verdict([made(0)]).statistics


def test_a_measurement_goes_on_in_another_process(where: str) -> None:
    with MeasurementDatabase(where) as database:
        row = database.begin(header())
        database.append(row, Metric.WALL, made(0))
    with MeasurementDatabase(where) as database:
        assert database.unfinished(header().key) == row
        database.append(row, Metric.WALL, made(1))
        database.finish(row, verdict([made(0), made(1)]))
        assert [r.index for r in database.latest(key=header().key).rounds] == [0, 1]
        with pytest.raises(UsageError, match="another process writes the same measurement"):
            database.finish(row, verdict([made(0)]))


def test_columns_with_structure_are_not_compared(database) -> None:
    with pytest.raises(UsageError, match=r"no column 'fingerprint'; accepted: .*fingerprint_digest"):
        database.measurements(fingerprint={"machine": "m"})


def test_a_url_and_a_path_open_the_same_file(tmp_path: Path) -> None:
    where = tmp_path / "folder with space" / "m'\u00fc?#.sqlite"
    with MeasurementDatabase(where) as database:
        row = database.begin(header())
    with MeasurementDatabase(str(where)) as database:
        assert database.unfinished(header().key) == row
    plain = tmp_path / "m.sqlite"
    with MeasurementDatabase(f"sqlite:///{plain}") as database:
        database.begin(header())
    assert plain.exists()


def test_a_database_in_memory_holds_what_it_is_given() -> None:
    with MeasurementDatabase("sqlite://") as database:
        row = database.begin(header())
        database.append(row, Metric.WALL, made(0))
        assert database.rounds(row) == (made(0),)


def _text(path: Path) -> None:
    path.write_text("not a database at all, but long enough to be looked at" * 40)


def _foreign(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE recipes (id INTEGER)")
    other.close()


def _newer(path: Path) -> None:
    MeasurementDatabase(path).close()
    other = sqlite3.connect(path)
    other.execute("UPDATE edgewright_schema SET version = 99")
    other.commit()
    other.close()


@pytest.mark.parametrize(
    ("make", "pattern"),
    [
        (_text, "cannot use .*m.sqlite.*file is not a database"),
        (_foreign, r"m.sqlite.* is not a measurement database.*other tables \(recipes\)"),
        (_newer, "m.sqlite.*schema is version 99, this edgewright reads version 2"),
        (Path.mkdir, "cannot use .*m.sqlite.*unable to open"),
    ],
)
def test_what_is_not_our_database_is_refused_and_left_alone(tmp_path: Path, make, pattern: str) -> None:
    path = tmp_path / "m.sqlite"
    make(path)
    before = None if path.is_dir() else path.read_bytes()
    with pytest.raises(UsageError, match=pattern):
        MeasurementDatabase(path)
    if before is not None and make is not _newer:
        assert path.read_bytes() == before


def test_a_server_that_was_restarted_is_connected_again(postgres) -> None:
    with MeasurementDatabase(postgres.database()) as database:
        row = database.begin(header())
        postgres.restart()
        database.append(row, Metric.WALL, made(0))
        assert database.rounds(row) == (made(0),)


def test_a_server_may_hold_other_tables_but_not_under_our_names(postgres) -> None:
    url = postgres.database()
    name = url.partition("@/")[2].partition("?")[0]
    postgres.sql(name, "CREATE TABLE recipes (id int)")
    MeasurementDatabase(url).close()
    assert postgres.sql(name, "SELECT version FROM edgewright_schema") == "2"
    other = postgres.database()
    postgres.sql(other.partition("@/")[2].partition("?")[0], "CREATE TABLE round (id int)")
    with pytest.raises(UsageError, match=r"not a measurement database.*other tables \(round\)"):
        MeasurementDatabase(other)


def test_a_newer_schema_on_a_server_is_refused(postgres) -> None:
    url = postgres.database()
    MeasurementDatabase(url).close()
    postgres.sql(url.partition("@/")[2].partition("?")[0], "UPDATE edgewright_schema SET version = 99")
    with pytest.raises(UsageError, match="schema is version 99, this edgewright reads version 2"):
        MeasurementDatabase(url)


def test_a_server_that_cannot_be_used_says_why_and_tells_no_password(postgres, tmp_path: Path) -> None:
    for url, pattern in (
        (
            f"postgresql://edgewright:secret@/nosuch?host={postgres.folder}",
            'database "nosuch" does not exist',
        ),
        (f"postgres://edgewright:secret@/x?host={tmp_path}", "cannot use .*No such file"),
        ("postgresql+psycopg://edgewright:secret@127.0.0.1:1/x", "cannot use .*[Cc]onnection refused"),
        ("postgresql://edgewright:secret@host:port/x", "cannot use"),
    ):
        with pytest.raises(UsageError, match=pattern) as caught:
            MeasurementDatabase(url)
        assert "secret" not in str(caught.value)


def test_a_missing_driver_is_named_with_the_command_that_brings_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UsageError, match=r"cannot use .*driver is not installed.*edgewright\[postgres\]"):
        MeasurementDatabase("postgresql://host/database")


@pytest.mark.parametrize("url", ["nosuch://x/y", "sqlite://bad:port:x/y", "postgresql+nodriver://h/d"])
def test_urls_that_lead_nowhere_are_usage_errors(url: str) -> None:
    with pytest.raises(UsageError, match="cannot use"):
        MeasurementDatabase(url)


def test_a_database_that_can_no_longer_be_written_says_so(tmp_path: Path) -> None:
    with MeasurementDatabase(tmp_path / "m.sqlite") as database:
        row = database.begin(header())
        with database._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1")  # the disk is full
        big = Round(0, tuple(range(4096)), DeviceState(1), DeviceState(2))
        with pytest.raises(UsageError, match=r"cannot write to the database .*full"):
            database.append(row, Metric.WALL, big)
        assert database.unfinished(header().key) == row
