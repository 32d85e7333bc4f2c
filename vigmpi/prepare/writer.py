import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Self

import h5py
import numpy as np

from vigmpi.datasets.dataset import channel_counts, mean_and_std
from vigmpi.datasets.prepared_header import FORMAT
from vigmpi.errors import InputError, error_reason
from vigmpi.hdf5_strings import fixed_string
from vigmpi.phase import Phase
from vigmpi.prepare.source import ImageBatch

_READ_BYTES = 2**24


class PreparedFileWriter:
    """Context manager that writes a prepared file; batches may arrive in any order.

    The file has a temporary name until it is complete and on disk. An unfinished file is removed.

    Args:
        num_images: number of images in each phase.
        size: height and width, in pixels.

    Raises:
        InputError: if the file exists or cannot be written.
    """

    def __init__(
        self, path: Path, num_images: dict[Phase, int], size: tuple[int, int], *, overwrite: bool
    ) -> None:
        if path.exists() and not overwrite:
            raise InputError(f"output file exists: {path}. Use --overwrite or another --output.")
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._missing = {phase: np.ones(count, bool) for phase, count in num_images.items()}
        try:
            self._offsets = _create(self._temporary, num_images, size)
            self._descriptor = os.open(self._temporary, os.O_RDWR)
        except OSError as error:
            raise InputError(
                f"cannot write file: {path} ({error_reason(error)}). Use --output FILE to write "
                f"elsewhere."
            ) from error
        except BaseException:
            self._temporary.unlink(missing_ok=True)
            raise

    def __enter__(self) -> Self:
        return self

    def write(self, batch: ImageBatch) -> None:
        for name, values in (("images", batch.pixels), ("labels", batch.labels.astype("<i8"))):
            offset = self._offsets[f"{batch.phase}/{name}"]
            for row, value in zip(batch.rows.tolist(), np.ascontiguousarray(values), strict=True):
                os.pwrite(self._descriptor, value.data, offset + row * value.nbytes)
        self._missing[batch.phase][batch.rows] = False

    def finish(self, class_names: tuple[str, ...], attributes: dict[str, str]) -> None:
        """Write class names, statistics and attributes, and rename the file to its final name.

        Raises:
            InputError: if images are missing.
        """
        if missing := sum(int(rows.sum()) for rows in self._missing.values()):
            raise InputError(f"source changed: {missing} images missing. Run the command again.")
        names = np.array([name.encode(errors="backslashreplace") for name in class_names])
        with h5py.File(self._temporary, "r+", locking=False) as file:
            file.create_dataset("classes", data=names, track_times=False)
            file["classes"].attrs["description"] = fixed_string(
                "name of each class; a label is an index"
            )
            counts, digest = _summary(file)
            file.attrs["mean"], file.attrs["std"] = mean_and_std(counts)
            for name, text in {**attributes, "images_sha256": digest}.items():
                file.attrs[name] = fixed_string(text)
        os.fsync(self._descriptor)
        self._temporary.replace(self._path)
        _sync_folder(self._path.parent)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)
        self._temporary.unlink(missing_ok=True)


def _create(path: Path, num_images: dict[Phase, int], size: tuple[int, int]) -> dict[str, int]:
    """Create a file with space for all rows and return the offset of each dataset.

    HDF5 1.10 is the first format in which all of HDF5's metadata carries checksums.
    """
    offsets = {}
    with h5py.File(path, "x", locking=False, libver=("v110", "v110")) as file:
        file.attrs["format"] = fixed_string(FORMAT)
        for phase, count in num_images.items():
            for name, shape, dtype, description in (
                ("images", (count, 3, *size), "u1", "[images, RGB, height, width]"),
                ("labels", (count,), "<i8", "class of each image"),
            ):
                early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
                early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
                early.set_obj_track_times(False)
                data = file.create_dataset(f"{phase}/{name}", shape, dtype, dcpl=early)
                data.attrs["description"] = fixed_string(description)
                offsets[data.name.strip("/")] = data.id.get_offset()
    return offsets


def _summary(file: h5py.File) -> tuple[np.ndarray, str]:
    """Return the histogram of each channel of the training images, and the SHA-256 of all rows."""
    digest = hashlib.sha256()
    counts = np.zeros((3, 256), np.int64)
    for phase in Phase:
        for name in ("images", "labels"):
            data = file[f"{phase}/{name}"]
            rows = max(1, _READ_BYTES * len(data) // data.nbytes)
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
