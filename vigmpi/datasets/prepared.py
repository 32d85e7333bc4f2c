import os
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vigmpi.datasets.dataset import Dataset, Images, Indices, Labels, scaled
from vigmpi.datasets.prepared_header import Header, Rows, read_header
from vigmpi.errors import InputError
from vigmpi.phase import Phase

_LABELS_AT_ONCE = 2**20


class PreparedFile(Dataset):
    """Images and labels in a file that `data/prepare.py` wrote.

    Rows are read from their place in the file, when they are asked for: what a rank holds in
    memory does not depend on the file's size, and any number of threads may read.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._path = path

    @property
    def identity(self) -> str:
        return f"{super().identity} {self._header.digest}"

    def load(self, *, images: bool, labels: bool) -> None:  # noqa: ARG002 (rows can wait)
        self._header = header = read_header(self._path)
        self.class_names = header.class_names
        _, _, height, width = header.images[Phase.TRAIN].shape
        self.image_size = height, width
        self.samples = {phase: rows.shape[0] for phase, rows in header.images.items()}
        self.about = (
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
            raise InputError(f"{self._path} can't be read: {error.strerror}") from error
        weakref.finalize(self, os.close, self._descriptor)
        # Rows lie far apart: reading ahead would fetch what nobody asked for.
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def _check_labels(self, header: Header) -> None:
        for phase, rows in header.labels.items():
            for first in range(0, rows.shape[0], _LABELS_AT_ONCE):
                found = np.empty(min(_LABELS_AT_ONCE, rows.shape[0] - first), rows.dtype)
                self._fill(found.data, rows.offset + first * rows.row_bytes)
                if found.min() < 0 or found.max() >= self.num_classes:
                    raise InputError(
                        f"{self._path} has labels in {phase} outside of its {self.num_classes} "
                        f"classes; type: vigmpi prepare SOURCE to make it anew"
                    )

    def _read(self, rows: Rows, samples: Indices) -> NDArray:
        values = np.empty((len(samples), *rows.shape[1:]), rows.dtype)
        places, size = values.data.cast("B"), rows.row_bytes
        order = np.argsort(samples)  # the file's order is the disk's
        offsets = rows.offset + samples[order] * size
        for place, offset in zip((order * size).tolist(), offsets.tolist(), strict=True):
            self._fill(places[place : place + size], offset)
        return values

    def _fill(self, place: memoryview, offset: int) -> None:
        if os.preadv(self._descriptor, (place,), offset) != place.nbytes:
            raise InputError(f"{self._path} became shorter while it was read")
