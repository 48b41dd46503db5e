"""What a database answers a query with is a source, from Python and from a project file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from adbc_driver_sqlite import dbapi

from taskloom.graph.errors import MissingExtraError, SourceError
from taskloom.pipeline import Source, Sql, Task
from taskloom.pipeline.config.project import load_project
from taskloom.storage.head import read_head
from taskloom.storage.record import SourceRecord
from taskloom.storage.source import read_batches, register_source
from taskloom.storage.store import Store

from .rows import mix, run

ALL = "select * from reviews order by id"
ROWS = [
    {
        "id": i,
        "text": f"text {i}" if i % 7 else None,
        "photo": bytes([i % 256]),
        "score": i if i < 9000 else i + 0.5,  # whole numbers first
    }
    for i in range(10_000)
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database."""
    path = tmp_path / "rows.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("create table reviews (id integer, text text, photo blob, score)")
        insert(database, ROWS)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store.create(tmp_path / "store")


def insert(database: Any, rows: list[dict[str, Any]]) -> None:
    values = [tuple(row.values()) for row in rows]
    database.executemany("insert into reviews values (?, ?, ?, ?)", values)
    database.commit()


def read(store: Store, record: SourceRecord) -> list[dict[str, Any]]:
    parts = (b for p in record.partitions for b in read_batches(store, record, p.id))
    return [
        {k: v for k, v in row.items() if k != "__split__"} for b in parts for row in b.to_pylist()
    ]


CONNECT: dict[str, Callable[[Path], Any]] = {
    "URL": lambda path: f"sqlite:///{path}",
    "function": lambda path: lambda: sqlite3.connect(path),
}


@pytest.mark.parametrize("kind", CONNECT)
def test_rows_of_a_query_are_captured(kind: str, path: Path, store: Store) -> None:
    record = register_source(store, "s", Sql(ALL, CONNECT[kind](path)), partition_rows=4000)
    assert read(store, record) == ROWS
    assert [partition.rows for partition in record.partitions] == [4000, 4000, 2000]
    assert read_head(Sql(ALL, CONNECT[kind](path)), 3)["id"].to_pylist() == [0, 1, 2]


def test_a_connection_of_the_caller_stays_open(path: Path, store: Store) -> None:
    query = "select id, text, photo from reviews order by id"
    plain = [{name: row[name] for name in ("id", "text", "photo")} for row in ROWS]
    with closing(sqlite3.connect(path)) as database:
        for _ in range(2):
            assert read(store, register_source(store, "s", Sql(query, database))) == plain
    with dbapi.connect(str(path)) as connection:
        for _ in range(2):
            record = register_source(store, "adbc", Sql(query, connection))
            assert read(store, record) == plain


def test_rows_that_a_database_gains_are_new_and_the_others_are_not(
    path: Path, store: Store
) -> None:
    source = Sql(ALL, f"sqlite:///{path}")
    register_source(store, "s", source, partition_rows=4000)
    assert register_source(store, "s", source, partition_rows=4000).num_new == 0
    with closing(sqlite3.connect(path)) as database:
        insert(database, [{"id": 10_000, "text": "new", "photo": b"", "score": 1.5}])
    grown = register_source(store, "s", source, partition_rows=4000)
    assert (grown.num_new, grown.num_kept) == (1, 2)


def test_a_version_saves_the_query(path: Path, tmp_path: Path) -> None:
    asked: list[int] = []

    def connect() -> Any:
        asked.append(1)
        return sqlite3.connect(path)

    source = Source(
        "reviews",
        Sql("select text, id from reviews where id < 50 and text is not null", connect),
        "1",
    )
    task = Task("t", "[TEXT:text] -> [TEXT:id]", source=source)
    assert run(mix(task), tmp_path / "s").rows
    assert not run(mix(task), tmp_path / "s").partitions
    assert len(asked) == 1


def test_a_project_file_asks_a_database_beside_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = path.with_name("project.yaml")
    project.write_text(
        """
store: store
out: run
sources:
  reviews: {sql: "select id, text from reviews order by id", connection: "sqlite:///rows.db"}
tasks:
  t: {instruction: "[TEXT:text] -> [TEXT:id]", source: reviews}
""",
        "utf-8",
    )
    monkeypatch.chdir("/")
    source = load_project(project).mixture["t"].named_source()
    assert source.name == "reviews"
    assert isinstance(source.data, Sql)
    assert read_head(source.data, 2).to_pylist() == [
        {"id": 0, "text": None, "__split__": 0},
        {"id": 1, "text": "text 1", "__split__": 0},
    ]


@pytest.mark.parametrize(
    ("query", "connection", "error", "message"),
    [
        pytest.param(ALL, "sqlite:///none.db", SourceError, r"T0401.*none\.db", id="no file"),
        pytest.param(ALL, "mysql://u:secret@h/d", SourceError, 'T0402.*"mysql"', id="no driver"),
        pytest.param(
            ALL,
            "snowflake://h/d",
            MissingExtraError,
            "(?s)T0901.*adbc-driver-snowflake",
            id="driver",
        ),
        pytest.param("select", "PATH", SourceError, "T0401.*at row 0.*incomplete", id="no query"),
    ],
)
def test_what_is_wrong_with_a_query_is_said(
    query: str, connection: str, error: type[Exception], message: str, path: Path, store: Store
) -> None:
    url = connection.replace("PATH", f"sqlite:///{path}")
    with pytest.raises(error, match=message) as caught:
        register_source(store, "s", Sql(query, url))
    assert "secret" not in str(caught.value) + repr(Sql(query, url))


def test_without_polars_the_extra_is_named(path: Path, store: Store) -> None:
    source = Sql(ALL, f"sqlite:///{path}")
    with (
        mock.patch.dict("sys.modules", {"polars": None}),
        pytest.raises(MissingExtraError, match=r'(?s)T0901.*pip install "taskloom\[etl\]"'),
    ):
        register_source(store, "s", source)


def test_a_query_without_an_answer_has_no_rows(path: Path, store: Store) -> None:
    with pytest.raises(SourceError, match="T0404"):
        register_source(store, "s", Sql("select 1 where false", f"sqlite:///{path}"))
