"""Layout of a prepared file, and the checks that allow reading its rows without HDF5.

The groups `train` and `test` contain `images`, uint8 [images, 3, height, width], and `labels`,
int64 [images]; `classes` contains the class names. Every dataset is contiguous, so that the offset
of a row is known, and every string has a fixed length.
"""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vigmpi.errors import InputError, error_reason
from vigmpi.phase import Phase

FORMAT = "vigmpi images 1"
_MAX_IMAGES = 10**8
_MAX_NAMES_BYTES = 2**24
_MAX_ATTRIBUTE_BYTES = 2**12


@dataclass(frozen=True)
class Rows:
    """Location of a contiguous dataset within its file.

    Attributes:
        offset: position of the first row in the file, in bytes.
        shape: shape of the dataset; the first axis counts rows.
    """

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def row_bytes(self) -> int:
        return prod(self.shape[1:]) * self.dtype.itemsize


@dataclass(frozen=True)
class Header:
    """Contents of a prepared file except its rows.

    Attributes:
        mean, std: statistics of each channel of the training images in [0, 1], [3].
        source: name of the archive or folder that was converted.
        digest: SHA-256 of all images and labels.
    """

    images: dict[Phase, Rows]
    labels: dict[Phase, Rows]
    class_names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    source: str
    digest: str


class _InvalidFileError(Exception):
    """Defect of a file."""


def read_header(path: Path) -> Header:
    """Read and check the header of a prepared file.

    Raises:
        InputError: if the file is not a prepared file, is damaged or refers to other files.
    """
    try:
        if not path.is_file():  # opening a pipe would block
            raise _InvalidFileError("not a regular file")
        with h5py.File(path, "r", locking=False) as file:
            return _header(file, path.stat().st_size)
    except Exception as error:  # HDF5 and h5py raise undocumented exceptions for damaged files
        raise unreadable(path, error_reason(error)) from error


def unreadable(path: Path, reason: str | None) -> InputError:
    """Return the error that reports an invalid prepared file."""
    return InputError(
        f"cannot read prepared file: {path} ({reason}). Run vigmpi prepare SOURCE --output {path} "
        f"--overwrite to write it again."
    )


def _header(file: h5py.File, size: int) -> Header:
    if _text(file, "format") != FORMAT:
        raise _InvalidFileError(f"attribute format is not {FORMAT!r}")
    images = {phase: _rows(file, f"{phase}/images", np.dtype("u1"), 4, size) for phase in Phase}
    labels = {phase: _rows(file, f"{phase}/labels", np.dtype("<i8"), 1, size) for phase in Phase}
    for phase in Phase:
        if images[phase].shape[1:] != images[Phase.TRAIN].shape[1:]:
            raise _InvalidFileError("training and test images differ in size")
        if labels[phase].shape[0] != images[phase].shape[0]:
            raise _InvalidFileError(f"{phase} does not have as many labels as images")
    _, channels, *sides = images[Phase.TRAIN].shape
    if channels != 3 or 0 in sides:
        raise _InvalidFileError(f"{channels} channels of {sides} pixels are no RGB images")
    mean, std = (_per_channel(file, name) for name in ("mean", "std"))
    source, digest = (_text(file, name) for name in ("source", "images_sha256"))
    return Header(images, labels, _classes(file, size), mean, std, source, digest)


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Return a dataset, following hard links only: others may leave the file or form a cycle."""
    item: Any = file
    for part in name.split("/"):
        if not isinstance(item, h5py.Group) or part not in item:
            raise _InvalidFileError(f"it has no {name}")
        if not isinstance(item.get(part, getlink=True), h5py.HardLink):
            raise _InvalidFileError(f"{name} is a link")
        item = item[part]
    if not isinstance(item, h5py.Dataset):
        raise _InvalidFileError(f"{name} is not a dataset")
    return item


def _rows(file: h5py.File, name: str, dtype: np.dtype | None, ndim: int, size: int) -> Rows:
    """Locate a dataset in a file of `size` bytes; dtype None: fixed-length strings."""
    data = _dataset(file, name)
    fits = data.dtype == dtype if dtype else data.dtype.kind == "S"
    if not fits or data.ndim != ndim or not 1 <= data.shape[0] <= _MAX_IMAGES:
        raise _InvalidFileError(f"{name} is {data.dtype} {data.shape}")
    layout = data.id.get_create_plist()
    if layout.get_layout() != h5py.h5d.CONTIGUOUS or layout.get_external_count():
        raise _InvalidFileError(f"{name} is not contiguous within the file")
    offset = data.id.get_offset()
    rows = Rows(offset or 0, data.shape, data.dtype)
    if offset is None or offset + rows.shape[0] * rows.row_bytes > size:
        raise _InvalidFileError(f"{name} does not fit into the file of {size} bytes")
    return rows


def _classes(file: h5py.File, size: int) -> tuple[str, ...]:
    rows = _rows(file, "classes", None, 1, size)
    if rows.shape[0] * rows.row_bytes > _MAX_NAMES_BYTES:
        raise _InvalidFileError(f"class names take more than {_MAX_NAMES_BYTES} bytes")
    return tuple(name.decode() for name in file["classes"][:])


def _attribute(file: h5py.File, name: str, kind: str, shape: tuple[int, ...]) -> Any:
    if name not in file.attrs:
        raise _InvalidFileError(f"it has no attribute {name}")
    attribute = file.attrs.get_id(name)
    if attribute.dtype.kind != kind or attribute.shape != shape:
        raise _InvalidFileError(f"attribute {name} is {attribute.dtype} {attribute.shape}")
    if attribute.get_storage_size() > _MAX_ATTRIBUTE_BYTES:
        raise _InvalidFileError(f"attribute {name} takes more than {_MAX_ATTRIBUTE_BYTES} bytes")
    return file.attrs[name]


def _text(file: h5py.File, name: str) -> str:
    value = _attribute(file, name, "S", ())
    text: str = value.decode() if isinstance(value, bytes) else value
    if not text.isprintable():
        raise _InvalidFileError(f"attribute {name} is not one line of text")
    return text


def _per_channel(file: h5py.File, name: str) -> np.ndarray:
    values = np.asarray(_attribute(file, name, "f", (3,)), dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise _InvalidFileError(
            f"attribute {name} is {values.tolist()}, which is outside of [0, 1]"
        )
    return values
