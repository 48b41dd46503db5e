"""A value becomes a preview in one place, whole enough to be recognised and small enough to be shown."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from taskloom.graph.preview import PreviewView
from taskloom.graph.type import Layout, Type
from taskloom.graph.vocabulary import Block, Vocabulary
from taskloom.ops.host.bpe import Bpe, FitBpe
from taskloom.pipeline.planner.sample import Document, host_values
from taskloom.pipeline.viewer.preview import (
    MAX_CHARACTERS,
    MAX_POINTS,
    MAX_SIDE,
    MAX_TOKENS,
    Speller,
    preview_value,
)

TEXTS = ["naïve café 😀 😀", "naïve tea", "日本語 日本", "tea and café"]
VOCABULARY = Vocabulary.of([Block("text", 300)])
IMAGE = Type("image", "uint8", ("H", "W", 3), Layout.RAGGED)
IDS = Type("text", "uint16", ("T",), Layout.RAGGED)
ANY = Type("any", "any")


@pytest.fixture(scope="module")
def speller() -> Speller:
    fit = FitBpe(size=300)
    state = fit.observe(pa.array(TEXTS), pa.array([0] * len(TEXTS), pa.uint8()))
    return Speller(VOCABULARY, Bpe.from_bytes(fit.finish(state)))


def show(value: Any, type_: Type = ANY, speller: Speller | None = None) -> PreviewView:
    view = preview_value(value, type_, row="p:0", speller=speller or Speller(VOCABULARY))
    json.dumps(view, allow_nan=False)
    assert view["row"] == "p:0"
    assert view["text"]
    return view


@given(st.text(max_size=40))
def test_the_words_of_ids_are_the_text_whatever_characters_are_cut(text: str) -> None:
    fit = FitBpe(size=256)
    bpe = Bpe.from_bytes(fit.finish(fit.observe(pa.array(["a"]), pa.array([0], pa.uint8()))))
    (ids,) = bpe.encode(pa.array([text])).to_pylist()
    assert "".join(Speller(VOCABULARY, bpe).spell_block("text", ids)) == text


def test_ids_of_a_box_are_shown_as_the_symbols_of_ofasys() -> None:
    view = show([312, 73, 574, 486], Type("bin", "uint16", ("T",), Layout.RAGGED))
    assert view["text"] == "4 ids: <bin>_312 <bin>_73 <bin>_574 <bin>_486 "


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_shown_with_what_each_says(text: str, speller: Speller) -> None:
    assert speller.bpe is not None
    (ids,) = speller.bpe.encode(pa.array([text])).to_pylist()
    view = show(ids, IDS, speller)
    assert view["tokens"] is not None
    assert [token["id"] for token in view["tokens"]] == ids
    assert "".join(token["text"] for token in view["tokens"]) == text
    assert view["text"].endswith(text)


def test_a_document_tells_what_is_learned_and_its_tensors_as_one(speller: Speller) -> None:
    assert speller.bpe is not None
    ids = [4 + number for number in speller.bpe.encode(pa.array(["tea"])).to_pylist()[0]]
    document = Document(
        source_ids=[1] * 4 + [0, *ids, 2],
        target_ids=[0, *ids],
        labels=[*ids, 2],
        weights=[*([1.0] * len(ids)), 0.5],
        tensors=((0, "image_16_8", 4),),
    )
    tokens = show(document, Type("document", "int32"), speller)["tokens"]
    assert tokens is not None
    assert tokens[0]["text"] == "<image_16_8: 4 positions>"
    said = "".join(token["text"] for token in tokens[1:])
    assert said == "<bos>tea<eos><bos>tea<eos>"
    assert [token["weight"] for token in tokens[-len(ids) - 2 :]] == [0, *([1] * len(ids)), 0.5]


@pytest.mark.parametrize("shape", [(5, 7, 3), (2, 900, 3), (900, 1000, 1)])
def test_a_picture_is_a_small_png_of_its_own_pixels(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    view = show(pixels, IMAGE)
    assert view["image"] is not None
    head, _, content = view["image"].partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert max(image.size) <= MAX_SIDE
        if max(shape) <= MAX_SIDE:
            assert np.array_equal(np.asarray(image), pixels)
    assert view["text"] == f"{shape[1]} x {shape[0]} pixels"


def test_the_pictures_of_one_row_stand_side_by_side() -> None:
    dark, light = np.zeros((4, 2, 3), np.uint8), np.full((2, 6, 3), 200, np.uint8)
    view = show([dark, None, light], IMAGE)
    assert view["image"] is not None
    with Image.open(io.BytesIO(base64.b64decode(view["image"].partition(",")[2]))) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (4, 8, 3)
    assert (pixels[:, :2] == 0).all()
    assert (pixels[:2, 2:] == 200).all()
    assert view["text"] == "3 pictures of 2 x 4, 6 x 2 pixels, 1 without a value"


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_a_sound_is_its_peaks_from_minus_one_to_one(dtype: str) -> None:
    wave = np.sin(np.arange(48_000) / 50)
    samples = (wave * np.iinfo(dtype).max).astype(dtype) if dtype == "int16" else wave.astype(dtype)
    points = show(samples, Type("audio", dtype, ("T",), Layout.RAGGED))["waveform"]
    assert points is not None
    assert len(points) == MAX_POINTS
    assert -1 <= min(points) < -0.9 < 0.9 < max(points) <= 1


def test_long_values_are_cut_and_say_so(speller: Speller) -> None:
    view = show("x" * 10_000)
    assert (view["kind"], len(view["text"])) == ("text", MAX_CHARACTERS)
    assert view["text"].endswith("…")
    ids = show([70] * 1000, IDS, speller)
    assert ids["tokens"] is not None
    assert len(ids["tokens"]) == MAX_TOKENS
    assert ids["text"].startswith(f"1,000 ids, the first {MAX_TOKENS} shown")


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        pytest.param(None, "missing", "no value", id="missing"),
        pytest.param(True, "number", "true", id="truth"),
        pytest.param(2.5, "number", "2.5", id="float"),
        pytest.param(b"notajpeg", "bytes", "8 bytes, starts b'notajpeg'", id="bytes"),
        pytest.param({"a": [b"x"]}, "text", "{\"a\": [\"1 bytes, starts b'x'\"]}", id="nested"),
        pytest.param(object(), "text", "a object", id="anything"),
        pytest.param(np.float32(0.5) * np.ones((2, 3), np.float32), "number",
                     "float32, 2 x 3, from 0.5 to 0.5, mean 0.5", id="array"),
        pytest.param(torch.tensor([1.0, float("nan")]), "number",
                     "float32, 2, from 1 to 1, mean 1, 1 not finite", id="tensor"),
        pytest.param(torch.tensor(2.5), "number", "float32, one value: 2.5", id="scalar tensor"),
        pytest.param(np.zeros((0, 3), np.int32), "number", "int32, 0 x 3", id="empty array"),
    ],
)  # fmt: skip
def test_other_values_are_told_in_a_few_words(value: object, kind: str, text: str) -> None:
    view = show(value)
    assert (view["kind"], view["text"]) == (kind, text)


def test_missing_rows_of_arrays_take_no_place_among_the_numbers() -> None:
    type_ = pa.fixed_shape_tensor(pa.uint8(), (2, 2))
    storage = pa.array([[1, 2, 3, 4], None, [5, 6, 7, 8]], pa.list_(pa.uint8(), 4))
    made = host_values(pa.ExtensionArray.from_storage(type_, storage), "uint8")
    assert made[1] is None
    assert [made[0].tolist(), made[2].tolist()] == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
