"""The kinds of files that rows are read from, and where they are.

To add a kind, write its three functions and name it here: ``scan`` finds columns and ranges of rows, ``read``
gives record batches of one range, ``head`` the first rows without a scan.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa

from ..graph.errors import SourceError, suggest
from .access import no_options
from .huggingface import name_splits
from .record import SPLITS, Range
from .row_file import AccessTo, FoundFile, find_row_files
from .tabular import (
    head_arrow,
    head_parquet,
    read_arrow,
    read_parquet,
    scan_arrow,
    scan_parquet,
)
from .tar import head_tar, read_tar, scan_tar
from .textual import head_csv, head_jsonl, read_csv, read_jsonl, scan_csv, scan_jsonl


class Format(NamedTuple):
    """How one kind of file is read.

    Attributes:
        scan: From a path and the most rows of a partition to columns and ranges.
        read: From a path, a range, names of columns and their types to record batches, in those types or the
            file's own.
        head: From a path and a number of rows to the first rows, in types that fit those.
    """

    scan: Callable[[Path, int], tuple[pa.Schema, list[Range]]]
    read: Callable[
        [Path, Range, Sequence[str], Mapping[str, pa.DataType]], Iterator[pa.RecordBatch]
    ]
    head: Callable[[Path, int], pa.Table]


FORMATS: Final[Mapping[str, Format]] = {
    "arrow": Format(scan_arrow, read_arrow, head_arrow),
    "csv": Format(scan_csv, read_csv, head_csv),
    "jsonl": Format(scan_jsonl, read_jsonl, head_jsonl),
    "parquet": Format(scan_parquet, read_parquet, head_parquet),
    "tar": Format(scan_tar, read_tar, head_tar),
}

SUFFIXES: Final[Mapping[str, str]] = {
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".csv": "csv",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".tar": "tar",
    ".tsv": "csv",
}


def by_split(name: str, data: Any) -> list[tuple[int | None, Any]]:
    """Return the parts of ``data`` with the positions of their splits, or all of it with none.

    Raises:
        SourceError: A key is no split.
    """
    if not isinstance(data, Mapping):
        return [(None, data)]
    data = name_splits(data)
    for key in data:
        if key not in SPLITS:
            message = f'source "{name}" is given by split, and "{key}" is no split'
            help_ = suggest(str(key), SPLITS) + "\none row alone is given in a list"
            raise SourceError.of("T0402", message, help_)
    return [(i, data[split]) for i, split in enumerate(SPLITS) if split in data]


def is_files(data: Any) -> bool:
    """Return whether ``data`` names files, rather than giving rows."""
    if isinstance(data, list | tuple) and data:
        return all(isinstance(item, str | os.PathLike) for item in data)
    return isinstance(data, str | os.PathLike)


def find_files(data: Any, access_to: AccessTo = no_options) -> list[tuple[FoundFile, str]]:
    """Return the files that ``data`` names, with their kinds; those of a glob are sorted.

    Args:
        data: A path, URL or glob, or a list of them.
        access_to: How a URL is opened; without options by default.

    Raises:
        SourceError: A file is missing or of an unknown kind, or a glob matches nothing.
        StoreError: A URL cannot be used (T0501) or reached (T0520).
    """
    given = data if isinstance(data, list | tuple) else [data]
    files = [file for item in given for file in find_row_files(item, access_to)]
    return [(file, _kind_of(file.name)) for file in files]


@contextmanager
def blaming(name: str) -> Generator[None]:
    """Turn what a library says about the content of the file called ``name`` into a `SourceError`."""
    try:
        yield
    except SourceError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        message = f"cannot read {name}: {error}"
        raise SourceError.of(
            "T0401", message, "is the file whole, and of the kind it says?"
        ) from error


def _kind_of(name: str) -> str:
    suffix = Path(name).suffix
    if kind := SUFFIXES.get(suffix.lower()):
        return kind
    message = f'{name} is of no known kind: "{suffix}"'
    raise SourceError.of("T0402", message, f"known: {', '.join(sorted(SUFFIXES))}")
