"""Raw values become what OFASys makes of them: ids of texts, pixels of pictures."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from taskloom.graph.vocabulary import find_rows, read_symbols
from taskloom.ops.host.box import MeasureImages, QuantizeBoxes
from taskloom.ops.host.bpe import Bpe, EncodeTexts
from taskloom.ops.host.image import DecodeImages, ResizeImages
from taskloom.ops.host.text import NormalizeTexts, StripTexts

from .golden import SENTENCES, SPECIALS, HostCase, order, write_bpe

PICTURES = ["caption_base", "caption_patch_tiny", "caption_resnet_tiny", "grounding_box_tiny"]
TEXTS = pa.array([row["text"] for row in SENTENCES])


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Bpe:
    """GPT-2's vocabulary, out of its files."""
    return Bpe.from_files(*write_bpe(tmp_path_factory.mktemp("gpt2")))


def test_every_sentence_has_the_ids_of_ofasys(gpt2: Bpe) -> None:
    ids = EncodeTexts()(StripTexts()(TEXTS), gpt2).to_pylist()
    assert ids == [row["bpe"] for row in SENTENCES]


def test_every_id_of_a_sentence_is_the_row_of_the_dictionary_that_ofasys_looks_up(
    gpt2: Bpe,
) -> None:
    places = read_symbols([*SPECIALS, *(f"<text>_{number}" for number in order()), "<mask>"])
    for row, ids in zip(SENTENCES, EncodeTexts()(StripTexts()(TEXTS), gpt2), strict=True):
        assert find_rows(places, [("text", id_) for id_ in ids.as_py()]) == row["ids"]


def test_texts_in_the_default_form_differ_where_they_were_no_tidy_ones(gpt2: Bpe) -> None:
    tidy = NormalizeTexts()(TEXTS)
    is_same = np.array(tidy) == np.array(StripTexts()(TEXTS))
    ids = EncodeTexts()(tidy, gpt2).to_pylist()
    is_equal = [ours == row["bpe"] for ours, row in zip(ids, SENTENCES, strict=True)]
    assert is_equal == is_same.tolist()
    assert sum(is_equal) == len(SENTENCES) - 3


def test_sentences_are_read_back(gpt2: Bpe) -> None:
    assert [gpt2.decode(row["bpe"]) for row in SENTENCES] == StripTexts()(TEXTS).to_pylist()


@pytest.mark.parametrize("name", PICTURES)
def test_every_pixel_is_that_of_ofasys(name: str) -> None:
    case = HostCase.of(name)
    expected = case.array("IMAGE", "src").transpose(0, 2, 3, 1)
    resize = ResizeImages(height=expected.shape[1], width=expected.shape[2])
    found = resize(DecodeImages()(pa.array([row["img"] for row in case.rows])))
    assert expected.dtype == np.uint8
    np.testing.assert_array_equal(found.to_numpy_ndarray(), expected)


def test_every_box_has_the_bins_of_ofasys() -> None:
    case = HostCase.of("grounding_box_tiny")
    sizes = MeasureImages()(DecodeImages()(pa.array([row["img"] for row in case.rows])))
    found = QuantizeBoxes()(pa.array([row["box"] for row in case.rows]), sizes)
    ids = [case.ids([("bin", number) for number in bins]) for bins in found.to_pylist()]
    assert ids == case.array("BOX", "tgt")[:, 1:].tolist()


def test_the_end_of_a_text_has_the_id_after_the_merges(gpt2: Bpe) -> None:
    assert gpt2.size == 50_257
    assert gpt2.decode([50_256]) == "<|endoftext|>"
