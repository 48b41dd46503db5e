"""What golden cases began with: rows, dictionaries, and GPT-2's vocabulary of texts.

The vocabulary's first 256 ids are bytes, printable ones first; each merge adds the next one.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from taskloom.graph.vocabulary import Place, read_symbols

FOLDER = Path(__file__).parents[2] / "golden"
INPUTS = FOLDER / "inputs"
PAD = 1
NUM_COMMON = 1200
END_OF_TEXT = "<|endoftext|>"

_TOLD: dict[str, Any] = json.loads((INPUTS / "rows.json").read_text("utf-8"))
SENTENCES: list[dict[str, Any]] = _TOLD["sentences"]


@dataclass(frozen=True, slots=True)
class HostCase:
    """Rows of one golden case, and what OFASys made of them."""

    name: str
    template: str
    rows: list[dict[str, Any]]
    symbols: list[str]
    arrays: dict[str, npt.NDArray[Any]]

    @classmethod
    def of(cls, name: str) -> HostCase:
        """Return the case of that name; pictures of its rows are bytes."""
        told = _TOLD["cases"][name]
        texts = [f"<text>_{number}" for number in order()[:NUM_COMMON]]
        bins = [f"<bin>_{number}" for number in range(told["bins"])]
        rows = [
            row | {"img": (FOLDER / row["img"]).read_bytes()} if "img" in row else dict(row)
            for row in told["rows"]
        ]
        with np.load(FOLDER / f"{name}.npz") as arrays:
            return cls(
                name,
                told["template"],
                rows,
                [*SPECIALS, *texts, *told["symbols"], *bins],
                dict(arrays),
            )

    def ids(self, places: Sequence[Place]) -> list[int]:
        """Return the ids that the case's dictionary has for ``places``."""
        rows = {place: row for row, place in enumerate(read_symbols(self.symbols))}
        return [rows[place] for place in places]

    def array(self, modality: str, side: str) -> npt.NDArray[Any]:
        """Return the only input of a modality on a side."""
        (found,) = (
            array
            for name, array in self.arrays.items()
            if name.startswith("net_input") and f".{modality}.{side}." in name
        )
        return found


SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")


@cache
def order() -> list[str]:
    """Return GPT-2's ids in the order in which dictionaries number them."""
    return lzma.decompress((INPUTS / "order.txt.xz").read_bytes()).decode().split("\n")


def write_bpe(folder: Path) -> tuple[str, str]:
    """Write GPT-2's ``encoder.json`` and ``vocab.bpe`` into ``folder`` and return where they are."""
    merges = lzma.decompress((INPUTS / "vocab.bpe.xz").read_bytes()).decode()
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    tokens = [*map(chr, printable), *(chr(256 + number) for number in range(len(others)))]
    tokens += [line.replace(" ", "") for line in merges.split("\n")[1:] if line]
    encoder = {token: number for number, token in enumerate([*tokens, END_OF_TEXT])}
    paths = folder / "encoder.json", folder / "vocab.bpe"
    paths[0].write_text(json.dumps(encoder), "utf-8")
    paths[1].write_text(merges, "utf-8")
    return str(paths[0]), str(paths[1])
