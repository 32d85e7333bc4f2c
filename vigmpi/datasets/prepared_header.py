"""What a prepared file holds, and the checks that let its rows be read without HDF5.

Groups `train` and `test`, each with `images` uint8 [images, 3, height, width] and `labels` int64
[images]; `classes`, the names; attributes of the file. Every dataset is one contiguous run of
bytes, so that a row's place is known, and every string has a fixed length.
"""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vigmpi.errors import InputError
from vigmpi.phase import Phase

FORMAT = "vigmpi images 1"

MAX_SIDE = 1024  # a node a pixel: more is a mistake
_MOST_IMAGES = 10**8
_MOST_NAMES_BYTES = 2**24
_MOST_ATTRIBUTE_BYTES = 2**12


@dataclass(frozen=True)
class Rows:
    """A dataset as bytes of its file.

    Attributes:
        offset: of the first row.
        shape: rows first.
    """

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def row_bytes(self) -> int:
        return prod(self.shape[1:]) * self.dtype.itemsize


@dataclass(frozen=True)
class Header:
    """All of a prepared file but its rows.

    Attributes:
        mean, std: of each channel of the training pixels in [0, 1], [3].
        source: name of what the file was prepared from.
        digest: SHA-256 over images and labels.
    """

    images: dict[Phase, Rows]
    labels: dict[Phase, Rows]
    class_names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    source: str
    digest: str


class _UnfitError(Exception):
    """What is wrong with a file."""


def read_header(path: Path) -> Header:
    """Open a prepared file, check it, close it.

    Raises:
        InputError: it is not one, is damaged, or would make HDF5 read elsewhere.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            raise _UnfitError("it is no file")
        with h5py.File(path, "r", locking=False) as file:
            return _header(file, path.stat().st_size)
    except _UnfitError as error:
        reason = str(error)
    # What HDF5 and h5py raise for damaged bytes is not limited to their documentation.
    except (MemoryError, RecursionError, Exception) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    raise InputError(
        f"{path} can't be read as a prepared file ({reason}); "
        f"type: vigmpi prepare SOURCE --output {path} --overwrite"
    )


def _header(file: h5py.File, size: int) -> Header:
    if _text(file, "format") != FORMAT:
        raise _UnfitError(f"its attribute format is not {FORMAT!r}")
    images = {phase: _rows(file, f"{phase}/images", np.dtype("u1"), 4, size) for phase in Phase}
    labels = {phase: _rows(file, f"{phase}/labels", np.dtype("<i8"), 1, size) for phase in Phase}
    for phase in Phase:
        if images[phase].shape[1:] != images[Phase.TRAIN].shape[1:]:
            raise _UnfitError("its training and test images differ in size")
        if labels[phase].shape[0] != images[phase].shape[0]:
            raise _UnfitError(f"{phase} has not as many labels as images")
    _, channels, *sides = images[Phase.TRAIN].shape
    if channels != 3 or not all(1 <= side <= MAX_SIDE for side in sides):
        raise _UnfitError(f"its images are {(channels, *sides)}, not 3 x (1 to {MAX_SIDE}) squared")
    mean, std = (_per_channel(file, name) for name in ("mean", "std"))
    source, digest = (_text(file, name) for name in ("source", "images_sha256"))
    return Header(images, labels, _classes(file, size), mean, std, source, digest)


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Look a dataset up by hard links only: others lead out of the file, or in circles."""
    item: Any = file
    for part in name.split("/"):
        if not isinstance(item, h5py.Group) or part not in item:
            raise _UnfitError(f"it has no {name}")
        if not isinstance(item.get(part, getlink=True), h5py.HardLink):
            raise _UnfitError(f"{name} is a link")
        item = item[part]
    if not isinstance(item, h5py.Dataset):
        raise _UnfitError(f"{name} is no dataset")
    return item


def _rows(file: h5py.File, name: str, dtype: np.dtype | None, axes: int, size: int) -> Rows:
    """Args: dtype: None for fixed strings of any length; size: bytes of the file."""
    data = _dataset(file, name)
    fits = data.dtype == dtype if dtype else data.dtype.kind == "S"
    if not fits or data.ndim != axes or not 1 <= data.shape[0] <= _MOST_IMAGES:
        raise _UnfitError(f"{name} is {data.dtype} {data.shape}")
    layout = data.id.get_create_plist()
    if layout.get_layout() != h5py.h5d.CONTIGUOUS or layout.get_external_count():
        raise _UnfitError(f"{name} is not contiguous within the file")
    offset = data.id.get_offset()
    rows = Rows(offset or 0, data.shape, data.dtype)
    if offset is None or offset + rows.shape[0] * rows.row_bytes > size:
        raise _UnfitError(f"{name} does not fit into the file's {size} bytes")
    return rows


def _classes(file: h5py.File, size: int) -> tuple[str, ...]:
    rows = _rows(file, "classes", None, 1, size)
    if rows.shape[0] * rows.row_bytes > _MOST_NAMES_BYTES:
        raise _UnfitError(f"its class names take more than {_MOST_NAMES_BYTES} bytes")
    return tuple(name.decode() for name in file["classes"][:])


def _attribute(file: h5py.File, name: str, kind: str, shape: tuple[int, ...]) -> Any:
    if name not in file.attrs:
        raise _UnfitError(f"it has no attribute {name}")
    found = file.attrs.get_id(name)
    if found.dtype.kind != kind or found.shape != shape:
        raise _UnfitError(f"its attribute {name} is {found.dtype} {found.shape}")
    if found.get_storage_size() > _MOST_ATTRIBUTE_BYTES:
        raise _UnfitError(f"its attribute {name} takes more than {_MOST_ATTRIBUTE_BYTES} bytes")
    return file.attrs[name]


def _text(file: h5py.File, name: str) -> str:
    value = _attribute(file, name, "S", ())
    text: str = value.decode() if isinstance(value, bytes) else value
    if not text.isprintable():
        raise _UnfitError(f"its attribute {name} is not one line of text")
    return text


def _per_channel(file: h5py.File, name: str) -> np.ndarray:
    values = np.asarray(_attribute(file, name, "f", (3,)), dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise _UnfitError(f"its attribute {name} is {values.tolist()}, not of pixels in [0, 1]")
    return values
