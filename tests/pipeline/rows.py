"""Small tasks on real scanned digits, in every form that a source can have."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
from PIL import Image
from real_data import digits

from taskloom.pipeline import BuildReport, Mixture, Source, Task, build

NUM_ROWS = 60
DIGITS = "[IMAGE:image] what does the image describe? -> [TEXT:label,closed_set]"
WORDS = "say [TEXT:note] -> [TEXT:label,closed_set]"
SLOTS = {"IMAGE": {"size": 16, "patch": 8}}
BPE_SIZE = 300

Row = dict[str, Any]


def digit_rows(num_rows: int = NUM_ROWS, first: int = 0) -> list[Row]:
    """Return scanned digits: ``id``, ``image`` (the bytes of a PNG file), ``label`` and ``note``."""
    rows = digits()[first : first + num_rows]
    return [
        {
            "id": row["id"],
            "image": encode_png(row["image"]),
            "label": row["label"],
            "note": f"scan {row['id']}",
        }
        for row in rows
    ]


def encode_png(pixels: Any) -> bytes:
    """Return ``pixels`` as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def digits_task(source: Any, instruction: str = DIGITS, name: str = "digits", **more: Any) -> Task:
    """Return a task on ``source``, a fifth of which is held out."""
    settings: dict[str, Any] = {"holdout": 0.2, "key": "id"} | more
    return Task(name, instruction, source=source, **settings)


def mix(*tasks: Task, **more: Any) -> Mixture:
    """Return a mixture of small images and a small vocabulary."""
    settings: dict[str, Any] = {"slots": SLOTS, "bpe_size": BPE_SIZE} | more
    return Mixture(tasks, **settings)


def digits_mixture(num_rows: int = NUM_ROWS) -> Mixture:
    """Return the mixture of one task on the first digits."""
    return mix(digits_task(Source("digits", digit_rows(num_rows))))


def spoiled(rows: list[Row] | None = None, *bad: int) -> Mixture:
    """Return a mixture some of whose images are no images."""
    rows = rows or digit_rows()
    for number in bad or (3, 41):
        rows[number]["image"] = b"notajpeg"
    return mix(digits_task(Source("digits", rows)))


def run(mixture: Mixture | Task, store: Path, **settings: Any) -> BuildReport:
    """Build without a word, by one worker unless ``settings`` say otherwise."""
    arguments: dict[str, Any] = {"progress": False, "workers": 1} | settings
    return build(mixture, store, **arguments)


def write_parquet(path: Path, rows: list[Row]) -> Path:
    """Write ``rows`` to ``path``; return it."""
    pa_parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_csv(path: Path, rows: list[Row]) -> Path:
    """Write ``rows`` to ``path``; return it."""
    pa_csv.write_csv(pa.Table.from_pylist(rows), path)
    return path


def write_jsonl(path: Path, rows: list[Row]) -> Path:
    """Write ``rows`` to ``path``; return it."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below ``folder``, without locks and without who built it when."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    names = {str(path.relative_to(folder)): path for path in files}
    return {
        n: p.read_bytes()
        for n, p in sorted(names.items())
        if not n.startswith(("builds/", "measures/"))
    }


def stamps(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return the content of every file below ``folder``, and when it was written last."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in files
    }


def columns(folder: Path) -> set[str]:
    """Return the ids of the columns in the store at ``folder``."""
    return {path.name for path in (folder / "columns").glob("*/*")}
