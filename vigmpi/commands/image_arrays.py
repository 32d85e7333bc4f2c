"""Arrays in NumPy's format that `vigmpi infer` reads and writes."""

import errno
import os
from contextlib import suppress
from pathlib import Path
from tokenize import TokenError
from zipfile import BadZipFile

import numpy as np

from vigmpi.datasets.augmentation import Augmentation
from vigmpi.datasets.dataset import Images, scaled
from vigmpi.errors import InputError, error_reason
from vigmpi.phase import Phase

_MAX_SECONDS = 1e9
# What np.load raises for files that are damaged, or of another format.
_UNREADABLE = (
    *(OSError, ValueError, EOFError, SyntaxError, TokenError),
    *(BadZipFile, NotImplementedError, OverflowError),
)


class ImageArray:
    """Images in a file: pixels uint8 [images, height, width, 3], or normalized float32 values.

    Args:
        shape: shape of an image's values, [3, height, width].
        normalize: normalization of pixels.

    Raises:
        InputError: if the file cannot be read, or holds other images.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], normalize: Augmentation) -> None:
        self._array = _opened(path)
        channels, height, width = shape
        expected = {np.dtype(np.uint8): (height, width, channels), np.dtype(np.float32): shape}
        kind = self._array.dtype
        if kind not in expected:
            raise InputError(
                f"cannot use array: {path} (its values are {kind}). Use a .npy file of uint8 or "
                f"float32."
            )
        if self._array.ndim != 4 or self._array.shape[1:] != expected[kind]:
            sizes = ["x".join(map(str, each)) for each in (self._array.shape[1:], expected[kind])]
            raise InputError(
                f"images do not fit: {path} holds images of {sizes[0]} ({kind}), the model needs "
                f"{sizes[1]}. Use images of this size."
            )
        self._normalize = normalize

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, requests: range) -> Images:
        """Return the normalized images of requests, which take the images in turn."""
        samples = np.array(requests, np.int64) % max(len(self), 1)
        rows = self._array[samples]
        if rows.dtype != np.uint8:
            return rows
        pixels = np.ascontiguousarray(rows.transpose(0, 3, 1, 2))
        return self._normalize(scaled(pixels), Phase.TEST, 0, samples)


def read_arrivals(path: Path) -> np.ndarray:
    """Return seconds in ascending order, float64 [requests].

    Raises:
        InputError: if the file cannot be read, or holds something else.
    """
    times = np.array(_opened(path))
    if times.dtype != np.float64 or times.ndim != 1:
        raise InputError(
            f"arrivals do not fit: {path} ({times.dtype}, shape {times.shape}). Use float64 "
            f"seconds [requests]."
        )
    before = np.concatenate([np.zeros(1), times[:-1]])
    wrong = np.flatnonzero(~((times >= before) & (times < _MAX_SECONDS)))
    if len(wrong):
        raise InputError(
            f"arrivals do not fit: {path} (request {wrong[0]} at {times[wrong[0]]:g}). Use seconds "
            f"from the start in ascending order."
        )
    return times


def save_array(path: Path, array: np.ndarray | None) -> None:
    """Write an array; the file gets its name when it is complete. None only tries.

    Raises:
        InputError: if it cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.part")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with unfinished.open("wb") as file:
            if array is not None:
                np.save(file, array, allow_pickle=False)
        if array is None:
            unfinished.unlink()
        else:
            unfinished.rename(path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise InputError(
            f"cannot write array: {path} ({error_reason(error)}). Use another path."
        ) from error


def _opened(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except _UNREADABLE as error:
        raise InputError(
            f"cannot read array: {path} ({error_reason(error):.200}). Use a .npy file."
        ) from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"cannot read array: {path} (an archive). Use a .npy file.")
    return array
