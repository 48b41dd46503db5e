"""Raw rows, built and packed, are what OFASys collates of them, document by document where it pads.

Of sound, films, codes and motion, which no task plans, the text beside them is built.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from taskloom.graph.vocabulary import PAD
from taskloom.pipeline import Mixture, Source, Task, build
from taskloom.pipeline.builder.dataset import Dataset, open_dataset
from taskloom.storage.capacity import Capacity
from taskloom.storage.one_pass import pack_documents
from taskloom.storage.pack import Pack
from taskloom.storage.store import Store

from ..ops.host.golden import HostCase, write_bpe

Ids = npt.NDArray[np.integer]

PATCHES = {
    "caption_base": (128, 16),
    "caption_patch_tiny": (112, 14),
    "caption_resnet_tiny": (96, 16),
    "grounding_box_tiny": (128, 16),
}
"""Side of the picture of a case, and of what becomes one position of it."""

WRITTEN = [
    *PATCHES,
    "audio_asr_tiny",
    "text2text_tiny",
    "text_closedset_tiny",
    "video_caption_tiny",
]
"""Cases whose targets are ids of text and boxes."""

READ = [*WRITTEN, "imagegen_vqgan_tiny", "motion_diffusion_tiny"]


class Found(NamedTuple):
    """One document, ids as the case's dictionary numbers them."""

    source: Ids
    target: Ids
    labels: Ids
    weights: npt.NDArray[np.float32]


def write_instruction(case: HostCase) -> str:
    text = re.sub(r"\[(?:AUDIO|VIDEO):\w+\]", "", case.template.replace("adaptor=", "adapter="))
    text = re.sub(r"\[TEXT:(\w+)\] -> \[(?:IMAGE|MOTION):.*", r"[TEXT:\1] -> [TEXT:\1]", text)
    if case.name not in PATCHES:
        return text
    size, patch = PATCHES[case.name]
    return text.replace("[IMAGE:img", f"[IMAGE:img,size={size},patch={patch}")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """All cases, built from their rows with GPT-2's vocabulary."""
    folder = tmp_path_factory.mktemp("golden")
    cases = [HostCase.of(name) for name in READ]
    tasks = [
        Task(case.name, write_instruction(case), source=Source(case.name, case.rows))
        for case in cases
    ]
    slots = {"TEXT": {"verbatim": True}}
    mixture = Mixture(tasks, slots=slots, bpe_files=write_bpe(folder))
    report = build(mixture, folder / "store", progress=False)
    assert not report.rejects
    return open_dataset(mixture, Store.open(folder / "store"))


def pack(dataset: Dataset, name: str) -> Pack:
    """Return the rows of a case in one pack."""
    rows = dataset.rows(name, "train")
    lanes = {piece.lane: 4 for piece in rows.templates[0].tensors}
    capacity = Capacity(source=1024, target=1024, tensors=lanes, tile=64)
    usable = {name: rows.usable}
    (packed,) = pack_documents(list(rows.templates), usable, dataset.columns, capacity, pad_id=PAD)
    return packed


def find(dataset: Dataset, case: HostCase) -> list[Found]:
    """Return the documents of a case in the order of its rows."""
    packed, places = pack(dataset, case.name), dataset.plan.vocabulary.places
    found: dict[int, Found] = {}
    ranges = zip(packed.source_ranges.tolist(), packed.target_ranges.tolist(), strict=True)
    for (_, row), pair in zip(packed.rows.tolist(), ranges, strict=True):
        source, target = (slice(*each) for each in pair)
        streams = packed.source_ids[source], packed.target_ids[target], packed.labels[target]
        read, given, asked = (
            np.array(case.ids([places[number] for number in ids])) for ids in streams
        )
        found[row] = Found(read, given, asked, packed.weights[target])
    return [found[row] for row in sorted(found)]


@pytest.mark.parametrize("name", READ)
def test_the_encoder_is_given_the_ids_of_ofasys(dataset: Dataset, name: str) -> None:
    case = HostCase.of(name)
    expected = case.array("TEXT", "src")
    documents = find(dataset, case)
    assert len(documents) == len(expected) == len(case.rows)
    size, patch = PATCHES.get(name, (0, 1))
    num_patches = (size // patch) ** 2
    for document, padded in zip(documents, expected, strict=True):
        assert (document.source[:num_patches] == PAD).all()
        assert document.source[num_patches:].tolist() == padded[padded != PAD].tolist()


@pytest.mark.parametrize("name", WRITTEN)
def test_the_decoder_is_given_and_asked_for_the_ids_of_ofasys(dataset: Dataset, name: str) -> None:
    case = HostCase.of(name)
    given = case.array("BOX" if "box" in name else "TEXT", "tgt")
    documents = find(dataset, case)
    for document, inputs, labels in zip(documents, given, case.arrays["target"], strict=True):
        is_there = inputs != PAD
        assert document.target.tolist() == inputs[is_there].tolist()
        # What is not learned is padding in OFASys.
        is_learned = labels[is_there] != PAD
        assert (document.weights > 0).tolist() == is_learned.tolist()
        assert document.labels[is_learned].tolist() == labels[is_there][is_learned].tolist()


@pytest.mark.parametrize("name", PATCHES)
def test_a_lane_holds_the_pixels_of_ofasys(dataset: Dataset, name: str) -> None:
    case = HostCase.of(name)
    packed = pack(dataset, name)
    (tensors,) = packed.tensors.values()
    (places,) = packed.places.values()
    starts = packed.source_ranges[:, 0].tolist()
    expected = case.array("IMAGE", "src").transpose(0, 2, 3, 1)
    for (_, row), start in zip(packed.rows.tolist(), starts, strict=True):
        (number,) = np.flatnonzero(places[:, 0] == start)
        np.testing.assert_array_equal(tensors[number], expected[row])
