"""Rows that a database answers a query with, as a source.

>>> Task(
...     "reviews", "[TEXT:review] -> [TEXT:stars]", source=Sql(query, "sqlite:///reviews.db")
... )  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import sqlite3
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from ..graph.errors import MissingExtraError, SourceError

BATCH_ROWS: Final = 8192
"""Rows that are fetched at a time."""

_SQLITE: Final = "sqlite:///"


@dataclass(frozen=True, slots=True)
class Sql:
    """A query, which every build asks again unless the `Source` has a version.

    Rows are known by their values and their order: without ``ORDER BY`` a database may give equal rows in
    another order, and they are built again.

    Attributes:
        query: What is asked.
        connection: ``"sqlite:///rows.db"``; the URL of another database that has an ADBC driver, such as
            ``"postgresql://…"``; a connection of ADBC, of SQLAlchemy or of any other driver that polars reads
            from, which stays open; or a function that returns one.
    """

    query: str
    connection: Any = field(repr=False)  # URLs hold passwords

    def __call__(self) -> Iterator[Any]:
        """Yield the rows, in frames of polars.

        Raises:
            MissingExtraError: Polars or the driver of the database is not installed.
            SourceError: There is no such file.
        """
        polars = _load("polars", "polars", '"taskloom[etl]"')
        with self._open() as connection:
            yield from polars.read_database(
                self.query,
                connection,
                iter_batches=True,
                batch_size=BATCH_ROWS,
                infer_schema_length=None,
            )

    @contextmanager
    def _open(self) -> Generator[Any]:
        if isinstance(self.connection, str):
            with closing(_connect(self.connection)) as connection:
                yield connection
        elif callable(self.connection):
            with closing(self.connection()) as connection:
                yield connection
        else:
            yield self.connection


def _connect(url: str) -> Any:
    if url.startswith(_SQLITE):
        path = Path(url.removeprefix(_SQLITE))
        if not path.is_file():
            raise SourceError.of("T0401", f"there is no file {path.absolute()}")
        return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    scheme = url.partition("://")[0]
    if not scheme.isidentifier():
        message = "the connection of a query is the URL of no database"
        help_ = f'give "{_SQLITE}rows.db", "postgresql://…", or an open connection'
        raise SourceError.of("T0402", message, help_)
    module = f"adbc_driver_{scheme}"
    return _load(f"{module}.dbapi", f"a driver for {scheme}", module.replace("_", "-")).connect(url)


def _load(module: str, what: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        message = f"reading from a database needs {what}"
        raise MissingExtraError.of("T0901", message, f"pip install {package}") from error
