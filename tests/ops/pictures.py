"""Pictures for the tests of images: small ones, and how to write and read them."""

from __future__ import annotations

import io
from typing import Any, TypeAlias

import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from PIL import Image

from taskloom.ops.errors import RowErrors
from taskloom.ops.host.image import DecodeImages

Pixels: TypeAlias = npt.NDArray[np.uint8]

small_images = npst.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(3)))
GRADIENT = np.arange(0, 240, dtype=np.uint8).reshape(8, 10, 3)
GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
NOISE = np.random.default_rng(seed=0).integers(0, 256, (40, 40, 3), np.uint8)
HALF = np.full((2, 2), 128, np.uint8)


def encode(image: Image.Image | Pixels, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(stream, kind, **options)
    return stream.getvalue()


def to_npy(array: npt.NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def unpack(decoded: pa.Array) -> list[Pixels]:
    """Return the images of an array of `DECODED`."""
    return [
        np.frombuffer(image["data"], np.uint8).reshape(image["shape"])
        for image in decoded.to_pylist()
    ]


def decode(value: bytes | str, op: DecodeImages | None = None) -> Pixels:
    (pixels,) = unpack((op or DecodeImages())(pa.array([value])))
    return pixels


def reject(value: bytes | str, op: DecodeImages | None = None) -> str:
    """Return what is said of a value that is no image."""
    with pytest.raises(RowErrors) as caught:
        decode(value, op)
    (problem,) = caught.value.problems
    assert problem.code == "T0301"
    return str(problem)
