"""Images become the pixels that people see, at the size that is asked for."""

from __future__ import annotations

import base64
import io
import threading
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from PIL import Image, ImageSequence
from sklearn.datasets import load_digits

from taskloom.ops.host.image import DECODED, DecodeImages, ResizeImages

from .pictures import (
    GRADIENT,
    GREY,
    HALF,
    Pixels,
    decode,
    encode,
    small_images,
    to_npy,
    unpack,
)


@given(st.lists(small_images, max_size=4), st.sampled_from(["PNG", "BMP", "TIFF", "NPY"]))
def test_lossless_formats_give_every_pixel_back(images: list[Pixels], kind: str) -> None:
    files = [to_npy(image) if kind == "NPY" else encode(image, kind) for image in images]
    decoded = DecodeImages()(pa.array(files, pa.binary()))
    assert decoded.type == DECODED
    for returned, image in zip(unpack(decoded), images, strict=True):
        np.testing.assert_array_equal(returned, image)


@pytest.mark.parametrize(("kind", "error"), [("JPEG", 6.0), ("WEBP", 4.0), ("GIF", 12.0)])
def test_lossy_formats_stay_close_to_the_photograph(photo: Pixels, kind: str, error: float) -> None:
    returned = decode(encode(photo, kind)).astype(float)
    assert np.abs(returned - photo).mean() < error


def test_files_on_disk_decode_as_pillow_sees_them() -> None:
    spec = find_spec("easy_vqa")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "data" / "train" / "images"
    paths = sorted(folder.glob("*.png"))[:20]
    from_paths = DecodeImages()(pa.array(map(str, paths)))
    from_bytes = DecodeImages()(pa.array([path.read_bytes() for path in paths]))
    assert from_paths.equals(from_bytes)
    for path, pixels in zip(paths, unpack(from_paths), strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(path).convert("RGB")))


def test_scanned_digits_decode_from_arrays() -> None:
    values, _ = load_digits(return_X_y=True)
    digits = (values[:10].reshape(10, 8, 8) * 255 / 16).astype(np.uint8)
    decoded = DecodeImages()(pa.array(map(to_npy, digits)))
    for digit, pixels in zip(digits, unpack(decoded), strict=True):
        np.testing.assert_array_equal(pixels, np.repeat(digit[:, :, None], 3, axis=2))


@pytest.mark.parametrize(
    "spell",
    [
        pytest.param(lambda data: base64.b64encode(data).decode(), id="base64"),
        pytest.param(lambda data: base64.encodebytes(data).decode(), id="base64 in lines"),
        pytest.param(
            lambda data: "data:image/png;base64," + base64.b64encode(data).decode(), id="data URL"
        ),
        pytest.param(
            lambda data: "DATA:;Base64," + base64.b64encode(data).decode(), id="bare data URL"
        ),
    ],
)
@pytest.mark.parametrize("dtype", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_texts_may_hold_images(photo: Pixels, spell: Any, dtype: pa.DataType) -> None:
    text = spell(encode(photo, "PNG"))
    (pixels,) = unpack(DecodeImages()(pa.array([text]).cast(dtype)))
    np.testing.assert_array_equal(pixels, photo)


def grey(values: npt.NDArray[Any]) -> Pixels:
    return np.repeat(values[:, :, None], 3, axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        pytest.param(encode(GREY, "PNG"), grey(GREY), id="grey"),
        pytest.param(to_npy(GREY[:, :, None]), grey(GREY), id="array of one channel"),
        pytest.param(to_npy(np.asfortranarray(GRADIENT)), GRADIENT, id="array in Fortran order"),
        pytest.param(
            encode(Image.fromarray(GREY > 100), "PNG"), grey((GREY > 100) * 255), id="one bit"
        ),
        pytest.param(
            encode(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"),
            grey(GREY),
            id="16 bits",
        ),
        pytest.param(
            encode(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF"),
            grey(GREY),
            id="16 bits in TIFF",
        ),
        pytest.param(
            encode(Image.fromarray(GREY.astype(np.int32) * 257), "TIFF"),
            grey(GREY),
            id="16 bits in 32",
        ),
        pytest.param(
            encode(Image.fromarray(GRADIENT).convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
            GRADIENT,
            id="palette",
        ),
        pytest.param(
            encode(np.dstack([HALF * 0, HALF * 0, HALF * 0, HALF]), "PNG"),
            np.full((2, 2, 3), 127, np.uint8),
            id="half transparent black on white",
        ),
        pytest.param(
            to_npy(np.dstack([HALF, HALF, HALF, HALF * 0])),
            np.full((2, 2, 3), 255, np.uint8),
            id="transparent array",
        ),
        pytest.param(
            encode(np.dstack([HALF * 0, HALF * 0]), "PNG"),
            np.full((2, 2, 3), 255, np.uint8),
            id="transparent grey",
        ),
        pytest.param(
            encode(Image.fromarray(HALF), "PNG", transparency=128),
            np.full((2, 2, 3), 255, np.uint8),
            id="one grey is transparent",
        ),
        pytest.param(
            encode(Image.fromarray(HALF).convert("P"), "GIF", transparency=128),
            np.full((2, 2, 3), 255, np.uint8),
            id="one colour of a palette is transparent",
        ),
        pytest.param(
            encode(Image.fromarray(np.zeros((2, 2, 4), np.uint8), "CMYK"), "TIFF"),
            np.full((2, 2, 3), 255, np.uint8),
            id="no ink",
        ),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(file: bytes, expected: Pixels) -> None:
    np.testing.assert_array_equal(decode(file), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_cameras_are_turned_back(kind: str, orientation: int) -> None:
    # A black pixel's way to the top left says which way the image was turned.
    upright = np.full((32, 16, 3), 255, np.uint8)
    upright[:8, :8] = 0
    undo = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation]))
    decoded = decode(encode(stored, kind, exif=exif))
    assert decoded.shape == upright.shape
    np.testing.assert_allclose(decoded, upright, atol=40)


def test_damaged_metadata_costs_no_image_and_warns_nobody() -> None:
    exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x09\x01\x12"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(encode(GRADIENT, "JPEG", exif=exif)).shape == GRADIENT.shape


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_is_its_first_frame(kind: str) -> None:
    black, white = (Image.new("RGB", (9, 7), colour) for colour in ("black", "white"))
    file = encode(black, kind, save_all=True, append_images=[white, black])
    assert len(list(ImageSequence.Iterator(Image.open(io.BytesIO(file))))) > 1
    np.testing.assert_array_equal(decode(file), np.zeros((7, 9, 3)))


def test_photographs_with_a_second_picture_inside_decode(photo: Pixels) -> None:
    picture = Image.fromarray(photo)
    file = encode(picture, "MPO", save_all=True, append_images=[picture.resize((64, 48))])
    assert decode(file).shape == photo.shape


def test_threads_decode_side_by_side(photo: Pixels) -> None:
    files = pa.array([encode(photo[:64, :64], "PNG"), encode(photo[64:160], "JPEG")])
    expected = DecodeImages()(files)
    results: list[pa.Array] = []
    threads = [
        threading.Thread(target=lambda: results.append(DecodeImages()(files))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(result.equals(expected) for result in results)


def test_resized_images_equal_pillows_own(photo: Pixels) -> None:
    decoded = DecodeImages()(pa.array([encode(photo, "PNG"), encode(photo[:50, :70], "PNG")]))
    resized = ResizeImages(height=24, width=40)(decoded).to_numpy_ndarray()
    assert resized.shape == (2, 24, 40, 3)
    for returned, original in zip(resized, (photo, photo[:50, :70]), strict=True):
        expected = Image.fromarray(original).resize((40, 24), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(returned, np.asarray(expected))


@given(st.lists(small_images, min_size=1, max_size=3), st.integers(0, 2))
def test_slices_resize_like_wholes(images: list[Pixels], start: int) -> None:
    decoded = DecodeImages()(pa.array(map(to_npy, images)))
    op = ResizeImages(height=3, width=2)
    whole, part = op(decoded), op(decoded.slice(start))
    np.testing.assert_array_equal(part.storage.to_pylist(), whole.storage.to_pylist()[start:])


@given(small_images)
def test_an_image_of_the_wanted_size_stays_as_it_is(image: Pixels) -> None:
    height, width, _ = image.shape
    resized = ResizeImages(height=height, width=width)(DecodeImages()(pa.array([to_npy(image)])))
    np.testing.assert_array_equal(resized.to_numpy_ndarray()[0], image)


def test_flat_colours_survive_every_resample() -> None:
    decoded = DecodeImages()(pa.array([to_npy(np.full((5, 9, 3), 77, np.uint8))]))
    for resample in ("nearest", "box", "bilinear", "bicubic", "lanczos"):
        resized = ResizeImages(height=4, width=20, resample=resample)(decoded)
        assert set(resized.to_numpy_ndarray().ravel().tolist()) == {77}
