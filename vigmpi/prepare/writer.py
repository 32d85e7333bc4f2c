import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np

from vigmpi.datasets.dataset import channel_counts, mean_and_std
from vigmpi.datasets.prepared_header import FORMAT
from vigmpi.errors import InputError
from vigmpi.phase import Phase
from vigmpi.prepare.source import ImageBatch

_AT_ONCE_BYTES = 2**24


class PreparedFileWriter:
    """Writes a prepared file: under another name, until it is whole and on disk.

    Rows come in any order and are written to their places. Use as a context; what was not
    finished is removed at its end.

    Args:
        samples: images of each phase.
        sides: height and width.

    Raises:
        InputError: the file exists, or cannot be written.
    """

    def __init__(
        self, path: Path, samples: dict[Phase, int], sides: tuple[int, int], *, overwrite: bool
    ) -> None:
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists; type: --overwrite, or another --output")
        self._path = path
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._missing = {phase: np.ones(count, bool) for phase, count in samples.items()}
        try:
            self._offsets = _make(self._part, samples, sides)
            self._descriptor = os.open(self._part, os.O_RDWR)
        except OSError as error:
            reason = error.strerror or " ".join(str(error).split())
            raise InputError(f"{path} can't be written ({reason}); type: --output FILE") from error
        except BaseException:
            self._part.unlink(missing_ok=True)
            raise

    def __enter__(self) -> Self:
        return self

    def write(self, some: ImageBatch) -> None:
        for name, values in (("images", some.pixels), ("labels", some.labels.astype("<i8"))):
            offset = self._offsets[f"{some.phase}/{name}"]
            for row, value in zip(some.rows.tolist(), np.ascontiguousarray(values), strict=True):
                os.pwrite(self._descriptor, value.data, offset + row * value.nbytes)
        self._missing[some.phase][some.rows] = False

    def finish(self, class_names: tuple[str, ...], about: dict[str, str]) -> None:
        """Add what is known at the end, and give the file its name.

        Args:
            about: attributes of the file.

        Raises:
            InputError: not all rows have been written.
        """
        if any(missing.any() for missing in self._missing.values()):
            raise InputError("the source changed while it was read; type: the same command again")
        names = np.array([name.encode(errors="backslashreplace") for name in class_names])
        with h5py.File(self._part, "r+", locking=False) as file:
            file.create_dataset("classes", data=names, track_times=False)
            file["classes"].attrs["description"] = fixed("name of each class; a label is an index")
            counts, digest = _summary(file)
            file.attrs["mean"], file.attrs["std"] = mean_and_std(counts)
            for name, text in {**about, "images_sha256": digest}.items():
                file.attrs[name] = fixed(text)
        os.fsync(self._descriptor)
        self._part.replace(self._path)
        _sync_folder(self._path.parent)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)
        self._part.unlink(missing_ok=True)  # once finished, it has its name


def fixed(text: str) -> Any:
    """Text of fixed length: HDF5 keeps others on a heap, which carries no checksum."""
    content = text.encode(errors="backslashreplace")
    return np.array(content, h5py.string_dtype("utf-8", max(1, len(content))))


def _make(path: Path, samples: dict[Phase, int], sides: tuple[int, int]) -> dict[str, int]:
    """Make a file with room for all rows; return where in it each dataset begins.

    Its format is the first in which all of HDF5's own bytes carry checksums.
    """
    offsets = {}
    with h5py.File(path, "x", locking=False, libver=("v110", "v110")) as file:
        file.attrs["format"] = fixed(FORMAT)
        for phase, count in samples.items():
            for name, shape, dtype, about in (
                ("images", (count, 3, *sides), "u1", "[images, red green blue, height, width]"),
                ("labels", (count,), "<i8", "class of each image"),
            ):
                early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
                early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
                early.set_obj_track_times(False)
                data = file.create_dataset(f"{phase}/{name}", shape, dtype, dcpl=early)
                data.attrs["description"] = fixed(about)
                offsets[data.name.strip("/")] = data.id.get_offset()
    return offsets


def _summary(file: h5py.File) -> tuple[np.ndarray, str]:
    """How often each value occurs in the training images' channels, and all rows' SHA-256."""
    digest = hashlib.sha256()
    counts = np.zeros((3, 256), np.int64)
    for phase in Phase:
        for name in ("images", "labels"):
            data = file[f"{phase}/{name}"]
            rows = max(1, _AT_ONCE_BYTES * len(data) // data.nbytes)
            for first in range(0, len(data), rows):
                values = data[first : first + rows]
                digest.update(values)
                if name == "images" and phase is Phase.TRAIN:
                    counts += channel_counts(values)
    return counts, digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
