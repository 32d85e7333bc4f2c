"""Decoding of image files by Pillow."""

import io
import struct
import warnings
import zlib
from contextlib import suppress
from typing import IO

import numpy as np
from PIL import ExifTags, Image

from vigmpi.datasets.dataset import Pixels
from vigmpi.datasets.file_tree import UnreadableError, unreadable
from vigmpi.datasets.image_names import FORMATS

RESAMPLING = Image.Resampling.LANCZOS

# Pillow's warnings about metadata are of no use here. Its warning about images of more than 89
# million pixels must be an error: Pillow itself raises one only above twice this number.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
# What turns an image of this EXIF orientation upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow's readers raise these for damaged files; the list is not documented.
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    AssertionError,
    RuntimeError,
    MemoryError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def size_of(file: IO[bytes], name: str) -> tuple[int, int]:
    """Return height and width of an upright image, of which only the header is read.

    Raises:
        UnreadableError: if Pillow cannot read the header.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            turned = _orientation(image) >= 5
            return image.size if turned else image.size[::-1]
    except _UNREADABLE as error:
        raise _unreadable(name, error) from error


def decode(content: bytes, name: str, size: tuple[int, int] | None = None) -> Pixels:
    """Return the pixels of `decode_with_size`."""
    return decode_with_size(content, name, size)[0]


def decode_with_size(
    content: bytes, name: str, size: tuple[int, int] | None = None
) -> tuple[Pixels, tuple[int, int]]:
    """Decode the first image of a file, and turn it upright if its EXIF data say so.

    Args:
        name: the file's name for an error message.
        size: height and width to which `RESAMPLING` resizes the image, regardless of its aspect
            ratio; None keeps its size.

    Returns:
        RGB pixels, [3, height, width], and height and width before they were resized.

    Raises:
        UnreadableError: if Pillow cannot decode the complete image.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            orientation = _orientation(image)
            rgb = _to_rgb(image)
            if orientation in _UPRIGHT:
                rgb = rgb.transpose(_UPRIGHT[orientation])
            resized_rgb = rgb.resize(size[::-1], RESAMPLING) if size else rgb
            return _channels_first(resized_rgb), (rgb.height, rgb.width)
    except _UNREADABLE as error:
        raise _unreadable(name, error) from error


def resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize images to height and width as `decode` does."""
    images = [Image.fromarray(image) for image in pixels.transpose(0, 2, 3, 1)]
    return np.array([_channels_first(image.resize(size[::-1], RESAMPLING)) for image in images])


def _channels_first(image: Image.Image) -> Pixels:
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation that the header of an opened file holds, from 1 to 8.

    It is 1 for a TIFF file, which Pillow itself turns upright, if the data are damaged, and if they
    follow the pixels, as they may in a PNG file.
    """
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    with suppress(*_UNREADABLE):
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        if isinstance(orientation, int) and 1 <= orientation <= 8:
            return orientation
    return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip at 255
        grey = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no defined conversion to 8 bits")
    return image.convert("RGB")


def _unreadable(name: str, error: BaseException) -> UnreadableError:
    reason = "not enough memory" if isinstance(error, MemoryError) else str(error)
    if isinstance(error, OSError) and reason.startswith("cannot identify"):
        reason = "format not supported by Pillow"
    return unreadable(name, " ".join(reason.split()) or type(error).__name__)
