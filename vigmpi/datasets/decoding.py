"""One image file, decoded by Pillow."""

import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image

from vigmpi.datasets.dataset import Pixels
from vigmpi.datasets.listing import refusal
from vigmpi.errors import InputError

RESAMPLING = Image.Resampling.LANCZOS

# Pillow's remarks on metadata help nobody here, but between its bound of 89 million pixels and
# twice as many it only warns.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
Image.init()
# Not EPS: Pillow hands it to Ghostscript, which runs it as a program.
_FORMATS = tuple(sorted(set(Image.OPEN) - {"EPS"}))

# Pillow's readers raise these for damaged bytes, and no list of them is documented.
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    NotImplementedError,
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
    """Height and width, from the file's head."""
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            return image.height, image.width
    except _UNREADABLE as error:
        raise _unreadable(name, error) from error


def decode(content: bytes, name: str, size: tuple[int, int] | None = None) -> Pixels:
    """Decode a file's (first) image.

    Args:
        name: for the message.
        size: height and width to bring it to, each for itself, by `RESAMPLING`; None: as it is.

    Returns:
        [3, height, width].

    Raises:
        InputError: it is no image that Pillow reads whole.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            rgb = _to_rgb(image)
            return _channels_first(rgb.resize(size[::-1], RESAMPLING) if size else rgb)
    except _UNREADABLE as error:
        raise _unreadable(name, error) from error


def resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Bring images to height and width, as `decode` does."""
    images = [Image.fromarray(image) for image in pixels.transpose(0, 2, 3, 1)]
    return np.array([_channels_first(image.resize(size[::-1], RESAMPLING)) for image in images])


def _channels_first(image: Image.Image) -> Pixels:
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would cut at 255
        grey = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("pixels of 32 bits have no scale that brings them to 8")
    return image.convert("RGB")


def _unreadable(name: str, error: BaseException) -> InputError:
    reason = "not enough memory" if isinstance(error, MemoryError) else str(error)
    if isinstance(error, OSError) and reason.startswith("cannot identify"):
        reason = "no format that Pillow reads"
    shown = " ".join(reason.split()) or type(error).__name__
    return InputError(refusal(name, f"is no image that can be used ({shown}); type: rm it"))
