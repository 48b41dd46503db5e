"""The documents of packs, one by one, and padded batches of them: the same work, laid out as others do."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import code_mixture
import numpy as np
import numpy.typing as npt
import torch
from eager_ofasys import PAD, Batch, Part
from torch import Tensor

from taskloom.ops.device.config import ModelConfig
from taskloom.ops.device.relative.names import to_ofasys
from taskloom.pipeline.loader.stream import Stream, open_stream
from taskloom.pipeline.model.program import Program
from taskloom.pipeline.settings import TrainConfig
from taskloom.storage.pack import Pack
from taskloom.storage.store import Store

LANE, PATCH = "image_32_8", 8
"""Where the demo's pictures are in a pack, and how many pixels make a token, along a side."""
ADAPTER = "adapter__image_patch_32_8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One sample of a pack.

    Attributes:
        task: Its task.
        ids: Of its source, those under the image left out.
        image: uint8 pixels, if it begins with an image.
        target_ids: What the decoder reads.
        labels: What it is asked for.
        weights: What each label counts.
        loss_ids: Number of the loss that each label counts in.
        source_length: Source tokens, patches among them.
    """

    task: str
    ids: npt.NDArray[np.int32]
    image: npt.NDArray[np.uint8] | None
    target_ids: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    loss_ids: npt.NDArray[np.int32]
    source_length: int


def load_demo() -> Any:
    """Return examples/demo.py, which needs the data of the extra ``demo``."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    import demo  # noqa: PLC0415 - few benches need it

    return demo


def open_demo(store: Path, model: ModelConfig) -> Stream:
    """Return what the demo's mixture is trained on, from the store that examples/demo.py builds."""
    demo = load_demo()
    return open_stream(demo.make_mixture(), Store.open(store), model, demo.TRAIN)


def open_functions(folder: Path, model: ModelConfig, source_tokens: int = 2048) -> Stream:
    """Return what the mixture of Python's functions is trained on, from its store in ``folder``."""
    config = TrainConfig(source_tokens=source_tokens)
    return open_stream(code_mixture.make_mixture(), code_mixture.open_store(folder), model, config)


def take_packs(stream: Stream, number: int) -> list[Pack]:
    """Return the first packs of ``stream``."""
    with stream.loader() as loader:
        return [pack for packs in islice(loader, number) for pack in packs]


def make_program(stream: Stream) -> Program:
    """Return the program of ``stream``, with the same parameters each time."""
    torch.manual_seed(0)
    return Program(stream.plan)


def copy_state(program: Program) -> dict[str, Tensor]:
    """Return parameters like those of ``program``, by the names of OFASys."""
    parameters = {name: each.detach() for name, each in program.named_parameters()}
    named = name_as_ofasys(parameters)
    return {name: each.clone().requires_grad_() for name, each in named.items()}


def name_as_ofasys(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return parameters of a program, or their gradients, by the names of OFASys."""
    renamed = {
        name.removeprefix("scopes.").replace(ADAPTER, "patch"): tensor
        for name, tensor in tensors.items()
    }
    converted = to_ofasys(renamed)
    assert not any(name.startswith("scopes") for name in converted.tensors), "all have names"
    return converted.tensors


def take_apart(pack: Pack, stream: Stream) -> Iterator[Document]:
    """Yield the documents of ``pack``."""
    places = pack.places.get(LANE, ())
    firsts: dict[int, int] = {int(at[0]): number for number, at in enumerate(places)}
    ranges = zip(pack.rows, pack.source_ranges, pack.target_ranges, strict=True)
    for (template, _), (lo, hi), (target_lo, target_hi) in ranges:
        number = firsts.get(int(lo))
        num_patches = 0 if number is None else len(places[number])
        target = slice(target_lo, target_hi)
        yield Document(
            task=stream.templates[template].task,
            ids=pack.source_ids[lo + num_patches : hi],
            image=None if number is None else pack.tensors[LANE][number],
            target_ids=pack.target_ids[target],
            labels=pack.labels[target],
            weights=pack.weights[target],
            loss_ids=pack.loss_ids[target],
            source_length=int(hi - lo),
        )


def collate(documents: Sequence[Document]) -> Batch:
    """Return ``documents`` as one batch, those with images first."""
    seen = [each for each in documents if each.image is not None]
    read = [each for each in documents if each.image is None]
    ordered = [*seen, *read]
    parts: list[Part] = []
    if seen:
        images = np.stack([each.image for each in seen if each.image is not None])
        ids = _pad([each.ids for each in seen], PAD)
        parts.append(Part(ids=ids, images=torch.from_numpy(images)))
    if read:
        parts.append(Part(ids=_pad([each.ids for each in read], PAD)))
    return Batch(
        parts=parts,
        target_ids=_pad([each.target_ids for each in ordered], PAD),
        labels=_pad([each.labels for each in ordered], PAD).long(),
        weights=_pad([each.weights for each in ordered], 0),
    )


def batch_mixed(documents: Sequence[Document], size: int) -> list[list[Document]]:
    """Return batches of ``size`` documents of any tasks, drawn at random."""
    shuffled = random.Random(0).sample(documents, len(documents))
    return [shuffled[at : at + size] for at in range(0, len(shuffled), size)]


def batch_by_task(documents: Sequence[Document], size: int) -> list[list[Document]]:
    """Return batches of ``size`` documents of one task each, drawn at random, as OFASys makes them."""
    shuffled = random.Random(0).sample(documents, len(documents))
    batches: list[list[Document]] = []
    for task in sorted({each.task for each in documents}):
        own = [each for each in shuffled if each.task == task]
        batches += [own[at : at + size] for at in range(0, len(own), size)]
    return batches


def batch_by_length(documents: Sequence[Document], num_tokens: int) -> list[list[Document]]:
    """Return batches of one task and of like lengths, ``num_tokens`` or less with their padding."""
    batches: list[list[Document]] = []
    for task in sorted({each.task for each in documents}):
        own = [each for each in documents if each.task == task]
        batch: list[Document] = []
        for each in sorted(own, key=lambda each: each.source_length):
            if each.source_length * (len(batch) + 1) > num_tokens:
                batches.append(batch)
                batch = []
            batch.append(each)
        batches.append(batch)
    return batches


def count_useful(batch: Batch) -> int:
    """Return the tokens of ``batch`` that are no padding, on both sides; it has no pictures."""
    ids = [*(part.ids for part in batch.parts), batch.target_ids]
    return sum(int((each != PAD).sum()) for each in ids)


def count_positions(batch: Batch) -> int:
    """Return the source positions of ``batch``, padding among them."""
    lengths = [_count_patches(part) + part.ids.shape[1] for part in batch.parts]
    return max(lengths) * len(batch.target_ids)


def count_padded(batch: Sequence[Document]) -> int:
    """Return the source positions that ``batch`` will have, padding among them."""
    return max(each.source_length for each in batch) * len(batch)


def _count_patches(part: Part) -> int:
    return 0 if part.images is None else (part.images.shape[1] // PATCH) ** 2


def _pad(rows: Sequence[npt.NDArray[Any]], filler: float) -> Tensor:
    padded = np.full((len(rows), max(map(len, rows))), filler, rows[0].dtype)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(padded)
