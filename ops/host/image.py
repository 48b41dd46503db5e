"""Images: bytes, files and arrays as RGB pixels, and pixels of another size.

A *decoded* image is uint8 of shape ``(H, W, 3)``, rows from the top, red first. Many of different sizes
are one struct array: ``data`` holds the pixels in C order, ``shape`` the three sizes.

What files say beside their colours is settled here, once: turned cameras (EXIF) are turned back,
transparent parts stand on white, palettes, greys and 16 bits become 8-bit RGB, an animation is its
first frame. Colour profiles are not applied.
"""

from __future__ import annotations

import base64
import binascii
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Final

import numpy as np
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from ...graph.errors import OpError, Problem, RowError, suggest
from ...graph.op import Traits
from ...graph.type import ANY, Layout, Port, Signature
from ..by_hand import takes_columns
from ..errors import RowErrors, bad_row

DECODED: Final = pa.struct(
    [("data", pa.large_binary()), ("shape", pa.list_(pa.int32(), 3))],
)
"""Arrow type of decoded images."""

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are tried. Pillow's others are rare, unmaintained or start other programs."""

RESAMPLES: Final[Mapping[str, Image.Resampling]] = MappingProxyType(
    {
        "nearest": Image.Resampling.NEAREST,
        "box": Image.Resampling.BOX,
        "bilinear": Image.Resampling.BILINEAR,
        "bicubic": Image.Resampling.BICUBIC,
        "lanczos": Image.Resampling.LANCZOS,
    }
)

PILLOW_MAX_PIXELS: Final = 178_956_970
"""Pixels from which on Pillow refuses an image by itself."""

_HOW_TEXTS_ARE_READ: Final = "a text is a path where there is such a file, and base64 otherwise"
_NPY_MAGIC: Final = b"\x93NUMPY"
_ORIENTATION_TAG: Final = 0x0112
# What to do to an image for each value of the EXIF tag; 1 is upright.
_TURNS: Final[Mapping[int, Image.Transpose]] = MappingProxyType(
    {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeImages:
    """Decode images to RGB pixels.

    A value is the bytes of a PNG, JPEG, WebP, GIF, BMP or TIFF file, or of a ``.npy`` file of uint8
    pixels with 1, 3 or 4 channels; or a text: a local path, a ``data:`` URL, or base64.

    Attributes:
        max_pixels: Largest height times width, at most `PILLOW_MAX_PIXELS`; checked before any pixel
            is decoded.
        max_bytes: Largest encoded size.
    """

    max_pixels: int = 64 << 20
    max_bytes: int = 256 << 20
    traits: ClassVar[Traits] = Traits(
        "decode_images", version=1, is_isolated=True, libraries=("pillow",)
    )

    def __post_init__(self) -> None:
        for name, limit in (("max_pixels", self.max_pixels), ("max_bytes", self.max_bytes)):
            if limit < 1:
                raise OpError.of("T0307", f"{name} must be at least 1, got {limit}")
        if self.max_pixels > PILLOW_MAX_PIXELS:
            message = f"max_pixels must be at most {PILLOW_MAX_PIXELS:,}, got {self.max_pixels:,}"
            raise OpError.of("T0307", message, "shrink such images before they are built")

    @property
    def signature(self) -> Signature:
        """Encoded images in, images of any size out."""
        image = Port("image", "uint8", ("H", "W", 3), Layout.RAGGED)
        return Signature(inputs={"values": Port(ANY, ANY)}, outputs={"out": image})

    @takes_columns
    def __call__(self, values: pa.Array) -> pa.Array:
        """Return the pixels of each image, as `DECODED`.

        Raises:
            RowErrors: Some images cannot be decoded, or pass a limit.
            OpError: The values are neither bytes nor texts.
        """
        if not _holds_images(values.type):
            message = f"values of type {values.type} cannot be decoded as images"
            help_ = "use bytes of image or .npy files, paths, data: URLs or base64"
            raise OpError.of("T0308", message, help_)
        pixels: list[bytes] = []
        shapes: list[tuple[int, int, int]] = []
        reasons: dict[int, Problem] = {}
        # Codecs warn of damaged metadata and of large images; the first is harmless, the second ours.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for offset, value in enumerate(values):
                try:
                    image = self._decode(value.as_py())
                except RowError as error:
                    (problem,) = error.problems
                    given = value.as_py()
                    reasons[offset] = bad_row(problem.code, problem.message, given, problem.help)
                else:
                    pixels.append(image.tobytes())
                    shapes.append((image.height, image.width, 3))
        if reasons:
            raise RowErrors(reasons)
        sizes = pa.array(np.array(shapes, np.int32).reshape(-1))
        arrays = [pa.array(pixels, pa.large_binary()), pa.FixedSizeListArray.from_arrays(sizes, 3)]
        return pa.StructArray.from_arrays(arrays, fields=list(DECODED))

    def _decode(self, value: bytes | str) -> Image.Image:
        content = self._read(value) if isinstance(value, str) else value
        self._check_size(len(content))
        if content.startswith(_NPY_MAGIC):
            return _to_rgb(self._decode_npy(content))
        try:
            with Image.open(BytesIO(content), formats=FORMATS) as image:
                self._check_pixels(image.width, image.height)
                image.load()
                return _turn(_to_rgb(image), image)
        except RowError:
            raise
        except UnidentifiedImageError:
            help_ = _HOW_TEXTS_ARE_READ if isinstance(value, str) else ""
            raise _undecodable("cannot identify image file", help_) from None
        except Image.DecompressionBombError:
            raise self._too_many_pixels(f"more than {PILLOW_MAX_PIXELS:,}") from None
        except Exception as error:  # noqa: BLE001 - codecs raise struct.error, SyntaxError, ...
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise _undecodable(f"cannot decode image: {reason[:120]}") from None

    def _read(self, text: str) -> bytes:
        """Return the bytes that a text stands for."""
        if text[:5].lower() == "data:":
            head, comma, body = text.partition(",")
            if not comma or not head.lower().endswith(";base64"):
                raise _undecodable("cannot read data URL", "write data:image/png;base64,...")
            return _from_base64(body, "the data URL is no base64")
        path = _existing_file(text)
        if path is None:
            return _from_base64(text, "no such file, and no base64")
        try:
            self._check_size(path.stat().st_size)
            return path.read_bytes()
        except OSError as error:
            raise _undecodable(f"cannot read file: {error.strerror}") from None

    def _decode_npy(self, content: bytes) -> Image.Image:
        """Return the pixels of a .npy file, of which nothing but plain uint8 is ever read."""
        stream = BytesIO(content)
        try:
            version = np.lib.format.read_magic(stream)
            if version == (1, 0):
                header = np.lib.format.read_array_header_1_0(stream)
            else:
                header = np.lib.format.read_array_header_2_0(stream)
        except Exception as error:  # noqa: BLE001 - the header is evaluated as a literal
            raise _undecodable("cannot read .npy header", str(error).partition("\n")[0]) from None
        shape, is_fortran, dtype = header
        if dtype != np.uint8 or len(shape) not in (2, 3) or (*shape, 1)[2] not in (1, 3, 4):
            message = f"arrays are uint8 of shape HxW, HxWx1, HxWx3 or HxWx4, got {dtype} {shape}"
            raise _undecodable(message, "scale the values to 0..255 and convert them to uint8")
        self._check_pixels(shape[1], shape[0])
        data = content[stream.tell() :]
        if len(data) != int(np.prod(shape)):
            raise _undecodable(f"the array needs {int(np.prod(shape)):,} bytes, got {len(data):,}")
        pixels = np.frombuffer(data, np.uint8).reshape(shape, order="F" if is_fortran else "C")
        squeezed = pixels[:, :, 0] if (*shape, 1)[2] == 1 and len(shape) == 3 else pixels
        return Image.fromarray(np.ascontiguousarray(squeezed))

    def _check_size(self, num_bytes: int) -> None:
        if num_bytes > self.max_bytes:
            message = f"{num_bytes:,} bytes are more than max_bytes, {self.max_bytes:,}"
            raise _undecodable(message, "raise max_bytes if the file is what it should be")

    def _check_pixels(self, width: int, height: int) -> None:
        if width < 1 or height < 1:
            raise _undecodable(f"the image has no pixels, {width} x {height}")
        if width * height > self.max_pixels:
            raise self._too_many_pixels(f"{width:,} x {height:,}")

    def _too_many_pixels(self, size: str) -> RowError:
        message = f"{size} pixels are more than max_pixels, {self.max_pixels:,}"
        return _undecodable(message, "raise max_pixels if the image is what it should be")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeImages:
    """Stretch every image to one size; the sides' ratio is not kept.

    Attributes:
        height: Height of the result, in pixels.
        width: Width of the result, in pixels.
        resample: How pixels are mixed, one of `RESAMPLES`; when shrinking all of them but
            ``nearest`` weigh every pixel that is covered.
    """

    height: int
    width: int
    resample: str = "bicubic"
    traits: ClassVar[Traits] = Traits("resize_images", version=1, libraries=("pillow",))

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            message = f"an image is at least 1 x 1 pixels, got {self.height} x {self.width}"
            raise OpError.of("T0307", message)
        if self.resample not in RESAMPLES:
            message = f'unknown resample "{self.resample}"'
            raise OpError.of("T0307", message, suggest(self.resample, RESAMPLES))

    @property
    def signature(self) -> Signature:
        """Images of any size in, images of one size out."""
        given = Port("image", "uint8", ("H", "W", 3), Layout.RAGGED)
        resized = Port("image", "uint8", (self.height, self.width, 3), Layout.DENSE)
        return Signature(inputs={"images": given}, outputs={"out": resized})

    @takes_columns
    def __call__(self, images: pa.Array) -> pa.Array:
        """Return the images as a fixed shape tensor array of ``(height, width, 3)``."""
        shape = (self.height, self.width, 3)
        resized = np.empty((len(images), *shape), np.uint8)
        shapes = images.field("shape").flatten().to_numpy().reshape(-1, 3)
        for out, data, (height, width, _) in zip(
            resized, images.field("data"), shapes, strict=True
        ):
            size = (int(width), int(height))
            image = Image.frombuffer("RGB", size, data.as_buffer(), "raw", "RGB", 0, 1)
            out[:] = np.asarray(image.resize((self.width, self.height), RESAMPLES[self.resample]))
        dtype = pa.fixed_shape_tensor(pa.uint8(), shape)
        flat = pa.array(resized.reshape(-1))
        storage = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(shape)))
        return pa.ExtensionArray.from_storage(dtype, storage)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _to_eight_bits(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    alpha = image.convert("RGBA")
    white = Image.new("RGBA", alpha.size, "white")
    return Image.alpha_composite(white, alpha).convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Return a grey image of 16 bits with 8; wider numbers say nowhere what is white."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        message = "pixels are wider than 16 bits, which leaves open how bright they are"
        raise _undecodable(message, "scale the values to 0..255 and convert them to uint8")
    return Image.fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))


def _turn(rgb: Image.Image, image: Image.Image) -> Image.Image:
    """Return ``rgb`` upright, as the metadata of ``image`` says."""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 - damaged metadata is common, and the pixels are whole
        return rgb
    return rgb if turn is None else rgb.transpose(turn)


def _existing_file(text: str) -> Path | None:
    try:
        path = Path(text)
        return path if path.is_file() else None
    except (OSError, ValueError):  # longer than a path can be; a zero byte
        return None


def _from_base64(text: str, reason: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise _undecodable(reason) from None


def _holds_images(dtype: pa.DataType) -> bool:
    tests = (
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_binary_view,
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_null,
    )
    return any(test(dtype) for test in tests)


def _undecodable(message: str, help: str = "") -> RowError:  # noqa: A002
    return RowError.of("T0301", message, help)
