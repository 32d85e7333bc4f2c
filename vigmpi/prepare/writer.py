import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import h5py
import numpy as np

from vigmpi.datasets.dataset import channel_counts, mean_and_std
from vigmpi.errors import InputError, error_reason
from vigmpi.hdf5_strings import fixed_string
from vigmpi.phase import Phase
from vigmpi.prepare.row_file import RowFile
from vigmpi.prepare.source import ImageBatch

_READ_BYTES = 2**24


class PreparedFileWriter:
    """Context manager that writes a prepared file; batches may arrive in any order.

    The file has a temporary name until it is complete and on disk. An unfinished file is removed.

    Args:
        num_images: number of images in each phase.
        size: height and width, in pixels.
        may_skip: whether images may be left out, for which a second file needs room at the end.

    Raises:
        InputError: if the file exists or cannot be written, in any method.
    """

    def __init__(
        self,
        path: Path,
        num_images: dict[Phase, int],
        size: tuple[int, int],
        *,
        overwrite: bool,
        may_skip: bool = False,
    ) -> None:
        self._path, self._size = path, size
        self._missing = {phase: np.ones(count, bool) for phase, count in num_images.items()}
        with self._reporting_errors():
            if path.exists() and not overwrite:
                raise InputError(
                    f"output file exists: {path}. Use --overwrite or another --output."
                )
            self._rows = RowFile(self._temporary("part"), num_images, size)
            if may_skip:
                self._check_second_file(num_images)

    def __enter__(self) -> Self:
        return self

    def write(self, batch: ImageBatch) -> None:
        with self._reporting_errors():
            for name, values in (("images", batch.pixels), ("labels", batch.labels.astype("<i8"))):
                for row, value in zip(batch.rows.tolist(), values, strict=True):
                    content = np.ascontiguousarray(value).data.cast("B")
                    self._rows.write(batch.phase, name, row, content)
        self._missing[batch.phase][batch.rows] = False

    def finish(
        self, class_names: Sequence[str], attributes: Mapping[str, str], skipped: Sequence[str]
    ) -> None:
        """Write class names, statistics and attributes, and rename the file to its final name.

        Args:
            skipped: name of each image that was left out, with the reason.

        Raises:
            InputError: if other images are missing.
        """
        num_missing = sum(int(rows.sum()) for rows in self._missing.values())
        if num_missing != len(skipped):
            raise InputError(
                f"source changed: {num_missing - len(skipped)} images missing. Run the command "
                f"again."
            )
        with self._reporting_errors():
            if skipped:
                self._drop_missing_rows()
            with h5py.File(self._rows.path, "r+", locking=False) as file:
                _store_texts(
                    file, "classes", class_names, "name of each class; a label is an index"
                )
                if skipped:
                    _store_texts(file, "skipped", skipped, "images that could not be read")
                counts, digest = _summary(file)
                file.attrs["mean"], file.attrs["std"] = mean_and_std(counts)
                for name, text in {**attributes, "images_sha256": digest}.items():
                    file.attrs[name] = fixed_string(text)
            self._rows.sync()
            self._rows.path.replace(self._path)
            _sync_folder(self._path.parent)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._rows.remove()

    def _check_second_file(self, num_images: dict[Phase, int]) -> None:
        try:
            second = self._temporary("smaller.part")
            RowFile(second, num_images, self._size, beside=self._rows.size_bytes).remove()
        except BaseException:
            self._rows.remove()
            raise

    def _drop_missing_rows(self) -> None:
        """Copy the other rows to a smaller file: HDF5 cannot shrink contiguous datasets."""
        kept = {phase: np.flatnonzero(~missing) for phase, missing in self._missing.items()}
        num_images = {phase: len(rows) for phase, rows in kept.items()}
        smaller = RowFile(self._temporary("smaller.part"), num_images, self._size)
        whole, self._rows = self._rows, smaller
        try:
            for phase, rows in kept.items():
                for name in ("images", "labels"):
                    for new, row in enumerate(rows.tolist()):
                        self._rows.write(phase, name, new, whole.read(phase, name, row))
        finally:
            whole.remove()

    def _temporary(self, suffix: str) -> Path:
        return self._path.with_name(f".{self._path.name}.{os.getpid()}.{suffix}")

    @contextmanager
    def _reporting_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # HDF5 raises both
            raise InputError(
                f"cannot write file: {self._path} ({error_reason(error)}). Use --output FILE to "
                f"write elsewhere."
            ) from error


def _store_texts(file: h5py.File, name: str, texts: Sequence[str], description: str) -> None:
    encoded = np.array([text.encode(errors="backslashreplace") for text in texts])
    file.create_dataset(name, data=encoded, track_times=False)
    file[name].attrs["description"] = fixed_string(description)


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
