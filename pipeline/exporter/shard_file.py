"""The forms that rows are exported in: Parquet files, WebDataset tars, and datasets of Hugging Face.

To add one, write its two functions and name it in `FORMS`: ``open`` gives what takes the tables of one shard,
``finish`` writes what belongs beside the shards of a split.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ...graph.errors import MissingExtraError
from ...storage.files import encode_json, write_atomic
from ..builder.dataset import Split
from .exported import PICTURE, ROW, SPLIT

Take = Callable[[pa.Table], None]
Shards = Mapping[Split, Sequence[str]]


class Form(NamedTuple):
    """How rows are written.

    Attributes:
        name: From a split, the number of a shard and how many there are to the path of its file.
        open: Opens a file for tables of a schema.
        finish: From a folder, the schema and the shards of each split: writes what belongs beside them.
    """

    name: Callable[[Split, int, int], str]
    open: Callable[[Path, pa.Schema], AbstractContextManager[Take]]
    finish: Callable[[Path, pa.Schema, Shards], None]


@contextmanager
def _open_parquet(path: Path, schema: pa.Schema) -> Generator[Take]:
    with pq.ParquetWriter(path, schema) as writer:
        yield writer.write_table


@contextmanager
def _open_tar(path: Path, schema: pa.Schema) -> Generator[Take]:
    del schema  # extensions say what is in members
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:

        def take(table: pa.Table) -> None:
            for row in table.to_pylist():
                # A key ends at the first dot, and some tools split it at a colon.
                key = row.pop(ROW).replace(":", "-")
                row.pop(SPLIT)
                for extension, content in _spell(row):
                    member = tarfile.TarInfo(f"{key}.{extension}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))

        yield take


@contextmanager
def _open_arrow(path: Path, schema: pa.Schema) -> Generator[Take]:
    features = _features(schema)
    with (
        pa.OSFile(str(path), "wb") as sink,
        pa.ipc.new_stream(sink, features.arrow_schema) as writer,
    ):

        def take(table: pa.Table) -> None:
            for batch in table.to_batches():
                columns = [_as_feature(features[n], batch.column(n)) for n in schema.names]
                writer.write_batch(
                    pa.RecordBatch.from_arrays(columns, schema=features.arrow_schema)
                )

        yield take


def _finish_nothing(folder: Path, schema: pa.Schema, shards: Shards) -> None:
    del folder, schema, shards  # a file for each shard is all there is


def _finish_dataset(folder: Path, schema: pa.Schema, shards: Shards) -> None:
    library = _load_datasets()
    info = library.DatasetInfo(features=_features(schema))
    for split, files in shards.items():
        where = folder / _SPLITS[split]
        info.write_to_directory(str(where))
        state = {
            "_data_files": [{"filename": Path(file).name} for file in files],
            "_fingerprint": library.fingerprint.Hasher.hash([str(schema), *files]),
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": _SPLITS[split],
        }
        write_atomic(where / "state.json", encode_json(state))
    known = {"splits": [_SPLITS[split] for split in shards]}
    write_atomic(folder / "dataset_dict.json", encode_json(known))


FORMS: Final[Mapping[str, Form]] = {
    "huggingface": Form(
        lambda split, i, n: f"{_SPLITS[split]}/data-{i:05}-of-{n:05}.arrow",
        _open_arrow,
        _finish_dataset,
    ),
    "parquet": Form(
        lambda split, i, n: f"{split}-{i:05}-of-{n:05}.parquet", _open_parquet, _finish_nothing
    ),
    "webdataset": Form(
        lambda split, i, n: f"{split}-{i:05}-of-{n:05}.tar", _open_tar, _finish_nothing
    ),
}
"""The forms by name."""

_SPLITS: Final[Mapping[Split, str]] = {"train": "train", "valid": "validation", "test": "test"}

_MAGIC: Final = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"\x93NUMPY": "npy", b"RIFF": "wav"}


def _spell(row: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Yield extension and content of the members that hold ``row``; what is null has none."""
    for column, value in row.items():
        name = re.sub(r"[^\w.-]", "_", column)
        if isinstance(value, list) and value and isinstance(value[0], bytes):
            yield from _spell({f"{name}.{i}": item for i, item in enumerate(value)})
        elif isinstance(value, bytes):
            kinds = [kind for magic, kind in _MAGIC.items() if value.startswith(magic)]
            yield f"{name}.{(*kinds, 'bin')[0]}", value
        elif isinstance(value, str):
            yield f"{name}.txt", value.encode()
        elif value is not None:
            yield f"{name}.json", json.dumps(value, default=str).encode()


def _features(schema: pa.Schema) -> Any:
    """Return the features of a dataset with ``schema``: pictures are known to be some."""
    library = _load_datasets()
    features = library.Features.from_arrow_schema(
        pa.schema(dict(zip(schema.names, schema.types, strict=True)))
    )
    for field in schema:
        if field.metadata == PICTURE:
            image = library.Image()
            features[field.name] = library.List(image) if pa.types.is_list(field.type) else image
    return features


def _as_feature(feature: Any, array: Any) -> Any:
    library = _load_datasets()
    if isinstance(feature, library.List) and isinstance(feature.feature, library.Image):
        pictures = _as_feature(feature.feature, array.flatten())
        return pa.ListArray.from_arrays(array.offsets, pictures)
    if isinstance(feature, library.Image):
        paths = pa.nulls(len(array), pa.string())
        mask = array.is_null() if array.null_count else None
        return pa.StructArray.from_arrays([array, paths], names=["bytes", "path"], mask=mask)
    return array


def _load_datasets() -> Any:
    try:
        import datasets  # noqa: PLC0415 - an extra
    except ImportError as error:
        message = "exporting to Hugging Face datasets needs the extra etl"
        raise MissingExtraError.of("T0901", message, 'pip install "taskloom[etl]"') from error
    return datasets
