"""Decoding of image files by Pillow."""

import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image

from vigmpi.datasets.dataset import Pixels
from vigmpi.datasets.listing import file_error
from vigmpi.errors import InputError

RESAMPLING = Image.Resampling.LANCZOS

# Pillow's warnings about metadata are of no use here. Its warning about images of more than 89
# million pixels must be an error: Pillow itself raises one only above twice this number.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
Image.init()
# EPS is excluded because Ghostscript would execute it as a program.
_FORMATS = tuple(sorted(set(Image.OPEN) - {"EPS"}))

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


def size_of(content: bytes, name: str) -> tuple[int, int]:
    """Return height and width; raise InputError if Pillow cannot read the file's header."""
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            return image.height, image.width
    except _UNREADABLE as error:
        raise _unreadable(name, error) from error


def decode(content: bytes, name: str, size: tuple[int, int] | None = None) -> Pixels:
    """Decode the first image of a file.

    Args:
        name: the file's name for an error message.
        size: height and width to which `RESAMPLING` resizes the image, regardless of its aspect
            ratio; None keeps its size.

    Returns:
        RGB pixels, [3, height, width].

    Raises:
        InputError: if Pillow cannot decode the complete image.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            rgb = _to_rgb(image)
            return _channels_first(rgb.resize(size[::-1], RESAMPLING) if size else rgb)
    except _UNREADABLE as error:
        raise _unreadable(name, error) from error


def resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize images to height and width as `decode` does."""
    images = [Image.fromarray(image) for image in pixels.transpose(0, 2, 3, 1)]
    return np.array([_channels_first(image.resize(size[::-1], RESAMPLING)) for image in images])


def _channels_first(image: Image.Image) -> Pixels:
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip at 255
        grey = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no defined conversion to 8 bits")
    return image.convert("RGB")


def _unreadable(name: str, error: BaseException) -> InputError:
    reason = "not enough memory" if isinstance(error, MemoryError) else str(error)
    if isinstance(error, OSError) and reason.startswith("cannot identify"):
        reason = "format not supported by Pillow"
    reason = " ".join(reason.split()) or type(error).__name__
    return file_error("cannot decode image", name, "Remove the file.", reason)
