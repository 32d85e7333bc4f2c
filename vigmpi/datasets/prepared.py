import os
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vigmpi.datasets.dataset import Dataset, Images, Indices, Labels, scaled
from vigmpi.datasets.prepared_header import Header, Rows, read_header, unreadable
from vigmpi.phase import Phase

_LABELS_PER_READ = 2**20


class PreparedFile(Dataset):
    """Images and labels in a file written by `vigmpi prepare`.

    Rows are read from the file on demand, so that a rank's memory does not depend on the file's
    size. Any number of threads may read.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._path = path

    @property
    def identity(self) -> str:
        return f"{super().identity} {self._header.digest}"

    def load(self, *, images: bool, labels: bool) -> None:  # noqa: ARG002 (rows are read on demand)
        self._header = header = read_header(self._path)
        self.class_names = header.class_names
        _, _, height, width = header.images[Phase.TRAIN].shape
        self.image_size = height, width
        self.num_images = {phase: rows.shape[0] for phase, rows in header.images.items()}
        self.details = (
            f"{self._path}, prepared from {header.source}: {self.num_classes} classes, "
            f"{height}x{width} pixels"
        )
        self._open()
        if labels:
            self._check_labels(header)

    def images(self, phase: Phase, samples: Indices) -> Images:
        return scaled(self._read(self._header.images[phase], samples))

    def labels(self, phase: Phase, samples: Indices) -> Labels:
        return self._read(self._header.labels[phase], samples)

    def mean_and_std(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return self._header.mean, self._header.std

    def _open(self) -> None:
        try:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise unreadable(self._path, error.strerror) from error
        weakref.finalize(self, os.close, self._descriptor)
        # Random access makes read-ahead useless.
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def _check_labels(self, header: Header) -> None:
        for phase, rows in header.labels.items():
            for first in range(0, rows.shape[0], _LABELS_PER_READ):
                labels = np.empty(min(_LABELS_PER_READ, rows.shape[0] - first), rows.dtype)
                self._fill(labels.data, rows.offset + first * rows.row_bytes)
                if labels.min() < 0 or labels.max() >= self.num_classes:
                    reason = f"{phase} labels are outside of its {self.num_classes} classes"
                    raise unreadable(self._path, reason)

    def _read(self, rows: Rows, samples: Indices) -> NDArray:
        values = np.empty((len(samples), *rows.shape[1:]), rows.dtype)
        buffer, size = values.data.cast("B"), rows.row_bytes
        order = np.argsort(samples)  # rows are read in the order of the file
        offsets = rows.offset + samples[order] * size
        for start, offset in zip((order * size).tolist(), offsets.tolist(), strict=True):
            self._fill(buffer[start : start + size], offset)
        return values

    def _fill(self, buffer: memoryview, offset: int) -> None:
        if os.preadv(self._descriptor, (buffer,), offset) != buffer.nbytes:
            raise unreadable(self._path, "it became shorter while it was read")
