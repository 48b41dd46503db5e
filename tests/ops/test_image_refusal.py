"""Whatever is no image is a bad row with a reason, and costs nothing."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from PIL import Image

from taskloom.graph.errors import OpError
from taskloom.ops.errors import RowErrors
from taskloom.ops.host.image import DECODED, DecodeImages, ResizeImages

from .pictures import (
    HALF,
    NOISE,
    Pixels,
    decode,
    encode,
    reject,
    to_npy,
)


def png_header(width: int, height: int) -> bytes:
    """Return the beginning of a PNG file that claims to be of a size, and a little data."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def test_the_error_of_the_design_is_the_error_shown() -> None:
    with pytest.raises(RowErrors) as caught:
        decode(b"notajpeg123")
    (problem,) = caught.value.problems
    assert problem.message == "cannot identify image file"
    assert problem.column == "11 bytes, starts b'notajpeg'"


@pytest.mark.parametrize(
    ("file", "said"),
    [
        pytest.param(b"", "cannot identify image file", id="no bytes"),
        pytest.param(b"\x89PNG\r\n\x1a\n", "cannot identify image file", id="a signature alone"),
        pytest.param(b"<svg xmlns='x'/>", "cannot identify image file", id="SVG"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n", "cannot identify image file", id="PostScript"),
        pytest.param(b"P6 1 1 255\n123", "cannot identify image file", id="PPM"),
        pytest.param(encode(NOISE, "PNG")[:-99], "cannot decode image", id="truncated PNG"),
        pytest.param(encode(NOISE, "JPEG")[:-99], "image file is truncated", id="truncated JPEG"),
        pytest.param(encode(NOISE, "WEBP")[:-99], "cannot", id="truncated WebP"),
        pytest.param(encode(NOISE, "GIF")[:-99], "image file is truncated", id="truncated GIF"),
        pytest.param(encode(NOISE, "BMP")[:-99], "image file is truncated", id="truncated BMP"),
        pytest.param(encode(NOISE, "TIFF")[:-99], "cannot", id="truncated TIFF"),
        pytest.param(png_header(40, 40), "cannot decode image", id="less data than it claims"),
        pytest.param(
            png_header(100_000, 1000), "100,000 x 1,000 pixels are more than max_pixels", id="bomb"
        ),
        pytest.param(png_header(2**20, 2**20), "are more than max_pixels", id="larger bomb"),
        pytest.param(
            encode(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"),
            "wider than 16 bits",
            id="floats",
        ),
        pytest.param(
            encode(Image.fromarray(np.full((2, 2), 70_000, np.int32)), "TIFF"),
            "wider than 16 bits",
            id="32 bits",
        ),
        pytest.param(b"\x93NUMPY\x01\x00\x05\x00abcde", "cannot read .npy header", id="npy header"),
        pytest.param(b"\x93NUMPY\x09\x00", "cannot read .npy header", id="npy version"),
        pytest.param(to_npy(np.ones((2, 2))), "got float64 (2, 2)", id="float array"),
        pytest.param(to_npy(HALF[0]), "got uint8 (2,)", id="row of pixels"),
        pytest.param(to_npy(np.zeros((2, 2, 2), np.uint8)), "got uint8 (2, 2, 2)", id="channels"),
        pytest.param(to_npy(np.zeros((0, 2), np.uint8)), "no pixels, 2 x 0", id="empty array"),
        pytest.param(to_npy(HALF)[:-1], "needs 4 bytes, got 3", id="truncated array"),
        pytest.param(to_npy(HALF) + b"x", "needs 4 bytes, got 5", id="array with a tail"),
        pytest.param(
            to_npy(HALF).replace(b"(2, 2)", b"(99999, 99999)"),
            "more than max_pixels",
            id="npy bomb",
        ),
    ],
)
def test_bytes_that_are_no_image_are_bad_rows(file: bytes, said: str) -> None:
    assert said in reject(file)


def test_pickles_are_never_loaded() -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return SPRUNG.append, ("code of the file ran",)

    array = np.empty((1, 1), object)
    array[0, 0] = Trap()
    assert "got object (1, 1)" in reject(to_npy(array))
    assert not SPRUNG


SPRUNG: list[str] = []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("no/such/file.jpg", "no such file, and no base64", id="path"),
        pytest.param("https://example.org/a.png", "no such file, and no base64", id="URL"),
        pytest.param("a\x00b", "no such file, and no base64", id="zero byte"),
        pytest.param("A" * 10_000, "cannot identify image file", id="base64 of nothing"),
        pytest.param("/tmp", "a path where there is such a file", id="folder"),
        pytest.param("data:image/png,abc", "cannot read data URL", id="data URL in plain text"),
        pytest.param("data:;base64,???", "the data URL is no base64", id="broken data URL"),
        pytest.param("", "cannot identify image file", id="nothing"),
    ],
)
def test_texts_that_are_no_image_are_bad_rows(text: str, said: str) -> None:
    assert said in reject(text)


def test_limits_hold_for_bytes_and_files_alike(tmp_path: Path, photo: Pixels) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(encode(photo, "PNG"))
    few_bytes, few_pixels = DecodeImages(max_bytes=1000), DecodeImages(max_pixels=427 * 640 - 1)
    for value in (path.read_bytes(), str(path)):
        assert "are more than max_bytes, 1,000" in reject(value, few_bytes)
        assert "640 x 427 pixels are more than max_pixels" in reject(value, few_pixels)
        assert decode(value, DecodeImages(max_pixels=427 * 640)).shape == photo.shape


def test_the_library_s_own_limit_warns_nobody(
    photo: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Above its limit the library warns, and above twice the limit it refuses.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", photo.size // 3 - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(encode(photo, "PNG")).shape == photo.shape
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "pixels are more than max_pixels" in reject(encode(photo, "PNG"))


def test_all_bad_rows_of_a_call_are_named_at_once() -> None:
    good = encode(NOISE, "PNG")
    with pytest.raises(RowErrors) as caught:
        DecodeImages()(pa.array([b"x", good, good[:-99], good]))
    assert list(caught.value.reasons) == [0, 2]


@given(st.binary(max_size=40), st.integers(0, 3))
def test_noise_never_raises_anything_else(noise: bytes, start: int) -> None:
    signatures = (b"", b"\xff\xd8\xff\xe0\x00\x10JFIF", b"GIF89a", b"\x93NUMPY")
    values = pa.array([signatures[start] + noise])
    try:
        assert len(DecodeImages()(values)) == 1
    except RowErrors as errors:
        assert {p.code for p in errors.problems} == {"T0301"}  # noqa: PT017 - may pass as well


@pytest.mark.parametrize("values", [pa.array([1]), pa.array([[1]])])
def test_a_column_of_no_images_is_refused_as_a_whole(values: pa.Array) -> None:
    for column in (values, values.slice(0, 0)):
        with pytest.raises(OpError, match="cannot be decoded as images"):
            DecodeImages()(column)


def test_a_column_without_any_value_gives_no_images() -> None:
    assert DecodeImages()(pa.nulls(0)).type == DECODED


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResizeImages(height=0, width=4), "at least 1 x 1 pixels, got 0 x 4"),
        (lambda: ResizeImages(height=4, width=4, resample="cubic"), "did you mean bicubic"),
        (lambda: DecodeImages(max_pixels=0), "max_pixels must be at least 1, got 0"),
        (lambda: DecodeImages(max_pixels=1 << 30), "max_pixels must be at most 178,956,970"),
    ],
    ids=["no pixels", "unknown resample", "no limit", "no limit that holds"],
)
def test_impossible_parameters_are_refused(make: Any, message: str) -> None:
    with pytest.raises(OpError, match=message):
        make()
