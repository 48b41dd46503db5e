"""Samples: what the model was asked, what is right and what it answered, for a person to look at.

They are those of an evaluation: ``samples/step-….jsonl`` in the run's directory, one object a line, and small
pictures beside it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...graph.vocabulary import PAD, SPECIAL, Vocabulary
from ...ops.host.bpe import Bpe
from ...ops.recipe.text import BLOCK
from ...storage.files import make_directory, reporting, write_atomic
from ...storage.pack import Pack
from ..answerer.exam import Exam
from ..answerer.writing import Said
from ..loader.stream import Stream
from .documents import name_rows

FOLDER: Final = "samples"

_MOST_CHARACTERS: Final = 2000
_MOST_PICTURES: Final = 4
_SIDE: Final = 128
"""Longest side of a picture that is kept, in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One row.

    Attributes:
        task: Its task.
        row: Its address, ``PARTITION:OFFSET``.
        number: Its number among all rows of the source.
        prompt: What the model reads, as text; a tensor by its modality.
        pictures: The pictures among that, uint8 of shape ``(H, W, 3)``.
        reference: What is right.
        answer: What was written.
    """

    task: str
    row: str
    number: int
    prompt: str
    pictures: tuple[npt.NDArray[np.uint8], ...] = ()
    reference: str = ""
    answer: str = ""

    def answered(self, exam: Exam, said: Said) -> Sample:
        """Return the sample with what was ``said``."""
        (place,) = np.flatnonzero(exam.expected == self.number).tolist()
        right = {slot: references[place] for slot, references in exam.references.items()}
        answer = next(iter(said.values.values())) if len(said.values) == 1 else said.values
        reference = next(iter(right.values())) if len(right) == 1 else right
        return replace(self, reference=_plain(reference), answer=_plain(answer))

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data, its pictures by the names of their files."""
        names = ("task", "row", "prompt", "reference", "answer")
        pictures = [f"{self._name}-{n}.png" for n in range(len(self.pictures))]
        return {name: getattr(self, name) for name in names} | {"pictures": pictures}

    def write_pictures(self, folder: Path) -> None:
        """Write its pictures to ``folder``, once."""
        for name, pixels in zip(self.to_json()["pictures"], self.pictures, strict=True):
            if not (folder / name).exists():
                picture = Image.fromarray(pixels)
                picture.thumbnail((_SIDE, _SIDE))
                picture.save(folder / name, "PNG")

    @property
    def _name(self) -> str:
        return "".join(c if c.isalnum() else "-" for c in f"{self.task}-{self.row}")


def write_samples(run: Path, step: int, samples: Sequence[Sample]) -> Path:
    """Write the samples of an evaluation to the directory ``run``, and return their file.

    Raises:
        StoreError: The disk is full, or the directory cannot be written.
    """
    folder = run / FOLDER
    make_directory(folder)
    with reporting(folder):
        for sample in samples:
            sample.write_pictures(folder)
    lines = (json.dumps(sample.to_json(), ensure_ascii=False) + "\n" for sample in samples)
    path = folder / f"step-{step:08d}.jsonl"
    write_atomic(path, "".join(lines).encode())
    return path


def find_prompts(
    stream: Stream, packs: Sequence[Pack], wanted: Collection[tuple[str, int]], bpe: Bpe | None
) -> dict[tuple[str, int], Sample]:
    """Return the samples of some rows as far as they are known without a model, by task and row.

    Args:
        stream: What the run learns from.
        packs: They hold the documents of the rows.
        wanted: The rows.
        bpe: The vocabulary of texts.
    """
    found: dict[tuple[str, int], Sample] = {}
    for pack in packs:
        for place, (template, row) in enumerate(pack.rows.tolist()):
            task = stream.templates[template].task
            if (task, row) in wanted:
                start, stop = pack.source_ranges[place].tolist()
                pictures = tuple(
                    pixels for _, pixels in _tensors(pack, start, stop) if _is_picture(pixels)
                )
                found[task, row] = Sample(
                    task=task,
                    row=name_rows(stream, template, [row])[0],
                    number=row,
                    prompt=_spell(stream.plan.vocabulary, pack, start, stop, bpe)[
                        :_MOST_CHARACTERS
                    ],
                    pictures=pictures[:_MOST_PICTURES],
                )
    return dict(sorted(found.items()))


def _tensors(pack: Pack, start: int, stop: int) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Yield lane and value of the tensors in a part of the source stream, in order."""
    found = [
        (int(places[0]), lane, number)
        for lane, all_places in pack.places.items()
        for number, places in enumerate(all_places)
        if start <= places[0] < stop
    ]
    for _, lane, number in sorted(found):
        yield lane, pack.tensors[lane][number]


def _is_picture(tensor: npt.NDArray[Any]) -> bool:
    return tensor.dtype == np.uint8 and tensor.ndim == 3 and tensor.shape[2] == 3


def _spell(vocabulary: Vocabulary, pack: Pack, start: int, stop: int, bpe: Bpe | None) -> str:
    """Return what a part of the source stream says."""
    tensors = _tensors(pack, start, stop)
    firsts = {int(places[0]) for lane in pack.places.values() for places in lane}
    said: list[str] = []
    ids = pack.source_ids[start:stop].tolist()
    placed = [(id_, start + n) for n, id_ in enumerate(ids)]
    for block, run in groupby(placed, key=lambda each: vocabulary.block_of(each[0])):
        members = list(run)
        if block == SPECIAL:
            begun = sum(place in firsts for id_, place in members if id_ == PAD)
            said += [f" [{next(tensors)[0].partition('_')[0].upper()}] " for _ in range(begun)]
        elif block == BLOCK and bpe is not None:
            offset = vocabulary.offset(block)
            said.append(bpe.decode(np.array([id_ - offset for id_, _ in members])))
        else:
            said += [f"<{block}_{id_ - vocabulary.offset(block)}>" for id_, _ in members]
    return " ".join("".join(said).split())


def _plain(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
