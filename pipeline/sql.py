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

SQLITE: Final = "sqlite:///"

_DRIVERS: Final = ("postgresql", "snowflake")
"""Schemes of URLs that a driver of ADBC by the same name connects to."""


@dataclass(frozen=True, slots=True)
class Sql:
    """A query, which every build asks again unless the `Source` has a version.

    Rows are known by their values and their order: without ``ORDER BY`` a database may give equal rows in
    another order, and they are built again.

    Attributes:
        query: What is asked.
        connection: ``"sqlite:///rows.db"``, ``"postgresql://…"`` or ``"snowflake://…"``; an open connection of
            ADBC, of SQLAlchemy or of any other driver that polars reads from, which stays open; or a function
            that returns one.
    """

    query: str
    connection: Any = field(repr=False)  # a URL may hold a password

    def __call__(self) -> Iterator[Any]:
        """Yield the rows, in frames of polars.

        Raises:
            MissingExtraError: Polars or the driver of the database is not installed.
            SourceError: There is no such file, or a URL is that of no known database.
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
        given = self.connection
        # Connections may be callable, too: that of sqlite3 is.
        if hasattr(given, "cursor") or not (isinstance(given, str) or callable(given)):
            yield given
            return
        opened: Any = _connect(given) if isinstance(given, str) else given()
        with closing(opened):
            yield opened


def _connect(url: str) -> Any:
    if url.startswith(SQLITE):
        path = Path(url.removeprefix(SQLITE))
        if not path.is_file():
            raise SourceError.of("T0401", f"there is no file {path.absolute()}")
        return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    scheme, _, rest = url.partition("://")
    if not rest or scheme not in _DRIVERS:
        message = f'"{scheme}" is no database that a query is read from by its URL'
        known = ", ".join(f"{each}://…" for each in _DRIVERS)
        help_ = f"give {SQLITE}rows.db, {known}, an open connection, or a function that opens one"
        raise SourceError.of("T0402", message, help_)
    module = f"adbc_driver_{scheme}"
    return _load(f"{module}.dbapi", f"a driver for {scheme}", module.replace("_", "-")).connect(url)


def _load(module: str, what: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        message = f"reading from a database needs {what}"
        raise MissingExtraError.of("T0901", message, f"pip install {package}") from error
