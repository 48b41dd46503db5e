"""Exporting: the rows of a task written for others, as Parquet, WebDataset tars or a Hugging Face dataset.

An export is planned first: which rows each *shard* (one file) holds follows from the store alone. Shards are
whole or absent, and those that are there are not written again, so an export that was interrupted goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import pyarrow as pa

from ...graph.errors import PlanError, StoreError, suggest
from ...ops.host.bpe import Bpe
from ...ops.recipe.text import BPE
from ...storage.files import (
    count_bytes,
    digest_bytes,
    local_path,
    make_directory,
    read_json,
    replacing,
    reporting,
    sweep,
    sync,
    write_json,
)
from ...storage.folder import LocalFolder
from ...storage.record import SPLITS
from ...storage.store import Store
from ..builder.dataset import SPLIT_CODES, Dataset, Split, open_dataset
from ..progress import Shown, open_progress
from ..task import Mixture, Task, as_mixture
from .exported import SPLIT, ExportedRows, ImageForm, Ints, SourceRows, StoredRows, cut_rows
from .shard_file import FORMS, Form

ExportFormat: TypeAlias = Literal["parquet", "webdataset", "huggingface"]
Columns: TypeAlias = Literal["stored", "source"]

SHARD_BYTES: Final = 256 << 20
"""About how many bytes of stored values a shard holds."""

PLAN: Final = ".export.json"
"""What a folder of shards holds; hidden, because readers of such folders take every file for rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What an export did.

    Attributes:
        rows: Rows in all shards, by task.
        files: Paths of all shards, by task.
        written: How many of them were written now.
        bytes: Bytes of those.
    """

    rows: dict[str, int]
    files: dict[str, tuple[Path, ...]]
    written: int
    bytes: int

    def __str__(self) -> str:
        total = sum(map(len, self.files.values()))
        there = f", {total - self.written:,} were there" if self.written < total else ""
        shards = f"{self.written:,} shard{'s'[: self.written != 1]}"
        return (
            f"{sum(self.rows.values()):,} rows: {shards} written, {count_bytes(self.bytes)}{there}"
        )


def export(  # noqa: PLR0913 - each is a choice of the caller's
    mixture: Mixture | Task | Sequence[Task],
    store: str | Path | Store,
    out: str | Path,
    *,
    task: str | None = None,
    format: ExportFormat = "parquet",  # noqa: A002 - the word that everyone uses
    split: Split | None = None,
    columns: Columns = "stored",
    images: ImageForm = "png",
    shard_bytes: int = SHARD_BYTES,
    progress: bool = True,
) -> ExportReport:
    """Write the rows that tasks learn from and are scored on: those that pass the filters and lack no value.

    Args:
        mixture: The tasks, as they were built.
        store: The store.
        out: Folder to write to. Of several tasks, each has a folder of its name in it.
        task: The only one of the tasks to export.
        format: ``"parquet"``, ``"webdataset"`` or ``"huggingface"``.
        split: The only split to export.
        columns: What the store holds for each slot, or the columns of the source.
        images: Pictures of the store as ``"png"`` files, or as the ``"npy"`` files of their pixels.
        shard_bytes: About how many bytes of values a shard holds.
        progress: Whether to show how far the export has come.

    Raises:
        PlanError: An argument names nothing.
        StoreError: A task is not built, or the folder is not on this machine, is in the store, holds something
            else, or cannot be written.
        MissingExtraError: The format needs a library that is not installed.
    """
    _check(format=format, split=split, columns=columns, images=images, shard_bytes=shard_bytes)
    mixture = as_mixture(mixture)
    names = [task] if task is not None else [each.name for each in mixture.tasks]
    sources = {name: mixture[name].named_source().name for name in names}
    store = store if isinstance(store, Store) else Store.open(store)
    root = local_path(out)
    folders = {name: root / name if len(names) > 1 else root for name in names}
    _refuse_inside(store, folders.values())
    dataset = open_dataset(mixture, store)
    with open_progress(shown=progress) as shown:
        plans: dict[str, _Export] = {}
        for name in names:
            record = store.source(sources[name])
            rows: ExportedRows = SourceRows(store, record)
            if columns == "stored":
                bpe = Bpe(store.artifact_content(store.artifacts()[BPE].digest))
                rows = StoredRows(dataset, record, name, bpe, images)
            shards = _plan_shards(dataset, name, rows, split, shard_bytes)
            plans[name] = _Export(name, rows, FORMS[format], folders[name], shards)
            plans[name].begin({"format": format, "columns": columns, "source": record.digest})
        sizes = [size for plan in plans.values() for size in plan.write(shown)]
        for plan in plans.values():
            plan.finish()
        report = ExportReport(
            rows={name: plan.num_rows for name, plan in plans.items()},
            files={name: tuple(plan.paths()) for name, plan in plans.items()},
            written=len(sizes),
            bytes=sum(sizes),
        )
        shown.say(str(report))
    return report


def _refuse_inside(store: Store, folders: Iterable[Path]) -> None:
    """Check that none of ``folders`` is the store, or inside it, whatever links lead there.

    Raises:
        StoreError: One is (T0501).
    """
    if not isinstance(store.folder, LocalFolder):
        return
    for folder in folders:
        if folder.resolve().is_relative_to(store.path.resolve()):
            message = f"{folder} belongs to the store {store}, and no export goes there"
            raise StoreError.of("T0501", message, "give a folder outside the store")


def _plan_shards(
    dataset: Dataset, task: str, rows: ExportedRows, split: Split | None, shard_bytes: int
) -> dict[Split, list[Ints]]:
    """Return the rows of each shard of each split that has any."""
    wanted: Sequence[Split] = [*SPLIT_CODES] if split is None else [split]
    shards: dict[Split, list[Ints]] = {}
    for each in wanted:
        usable = dataset.rows(task, each).usable
        if len(usable):
            shards[each] = list(cut_rows(usable, rows.sizes(usable), len(usable), shard_bytes))
    return shards


@dataclass(frozen=True, slots=True)
class _Export:
    """The shards of one task."""

    task: str
    rows: ExportedRows
    form: Form
    folder: Path
    shards: dict[Split, list[Ints]]

    @property
    def num_rows(self) -> int:
        return sum(len(rows) for shards in self.shards.values() for rows in shards)

    def paths(self) -> Iterator[Path]:
        """Yield the files, in order."""
        return (self.folder / name for names in self._names().values() for name in names)

    def begin(self, facts: dict[str, str]) -> None:
        """Write down what the folder is to hold, unless it says so already.

        Raises:
            StoreError: It holds something else.
        """
        content = [
            np.concatenate([[len(rows)], rows]) for each in self.shards.values() for rows in each
        ]
        plan = {
            **facts,
            "task": self.task,
            "values": dict(self.rows.identity),
            "files": {split: list(names) for split, names in self._names().items()},
            "rows": digest_bytes(np.concatenate([np.zeros(0, np.int64), *content]).tobytes()),
        }
        path = self.folder / PLAN
        if path.is_file():
            if read_json(path) == plan:
                sweep(self.folder)
                return
            self._refuse("another export")
        if there := [path.name for path in self.paths() if path.exists()]:
            self._refuse(f"a file {there[0]}")
        make_directory(self.folder)
        write_json(path, plan)

    def write(self, shown: Shown) -> Iterator[int]:
        """Write the shards that are not there; yield the bytes of each."""
        done = [rows for path, _, rows in self._each() if path.exists()]
        with shown.task(
            f"export {self.task}", total=self.num_rows, done=sum(map(len, done)), unit="rows"
        ) as bar:
            for path, split, rows in self._each():
                if path.exists():
                    continue
                make_directory(path.parent)
                with replacing(path) as temporary, reporting(path):
                    with self.form.open(temporary, self._schema) as take:
                        for table in self.rows.tables(rows):
                            take(_with_split(table, split))
                            bar.advance(table.num_rows)
                    sync(temporary)
                yield path.stat().st_size

    def finish(self) -> None:
        """Write what belongs beside the shards."""
        self.form.finish(self.folder, self._schema, self._names())

    def _names(self) -> dict[Split, list[str]]:
        return {
            split: [self.form.name(split, i, len(shards)) for i in range(len(shards))]
            for split, shards in self.shards.items()
        }

    @property
    def _schema(self) -> pa.Schema:
        return _with_split(self.rows.schema.empty_table(), "train").schema

    def _each(self) -> Iterator[tuple[Path, Split, Ints]]:
        for split, names in self._names().items():
            for name, rows in zip(names, self.shards[split], strict=True):
                yield self.folder / name, split, rows

    def _refuse(self, what: str) -> None:
        message = f"{self.folder} holds {what}"
        raise StoreError.of("T0540", message, "give another folder, or remove it first")


def _with_split(table: pa.Table, split: Split) -> pa.Table:
    names = pa.array([split] * table.num_rows, pa.string())
    return table.add_column(1, pa.field(SPLIT, pa.string()), names)


def _check(**given: Any) -> None:
    known = {
        "format": list(FORMS),
        "split": [*SPLITS, None],
        "columns": ["stored", "source"],
        "images": ["png", "npy"],
    }
    for name, choices in known.items():
        if given[name] not in choices:
            message = f'export: there is no {name} "{given[name]}"'
            raise PlanError.of(
                "T0227", message, suggest(str(given[name]), [c for c in choices if c])
            )
    if given["shard_bytes"] < 1:
        raise PlanError.of(
            "T0227", f"export: shard_bytes is at least 1, got {given['shard_bytes']}"
        )
