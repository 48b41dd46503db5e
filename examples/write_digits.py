"""Write scikit-learn's scanned digits as a Parquet file, for ``examples/digits.yaml``."""

from __future__ import annotations

import io
import sys
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from real_data import digits


def main(path: str) -> None:
    """Write 1,797 rows of ``id``, ``image`` (a PNG file), ``label`` and ``parity`` to ``path``."""
    rows = [
        {
            "id": row["id"],
            "image": _encode(row["image"]),
            "label": row["label"],
            "parity": "odd" if int(row["label"]) % 2 else "even",
        }
        for row in digits()
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)


def _encode(pixels: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


if __name__ == "__main__":
    main(*sys.argv[1:])
