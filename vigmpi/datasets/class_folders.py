import hashlib
from pathlib import Path

import numpy as np

from vigmpi.datasets.dataset import Dataset, Images, Indices, Labels, scaled
from vigmpi.datasets.decoding import decode, size_of
from vigmpi.datasets.listing import LAYOUT, Listing, list_images, printable, read_file, walk
from vigmpi.errors import InputError
from vigmpi.phase import Phase


class ClassFolders(Dataset):
    """Image files of equal size in class folders, each decoded whenever it is needed.

    A rank keeps only the names in memory. If sizes differ or decoding limits the speed of
    training, convert the images with `vigmpi prepare`.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._folder = folder

    @property
    def identity(self) -> str:
        names = "\0".join(name for phase in Phase for name in self._listing.files[phase])
        return f"{super().identity} {hashlib.sha256(names.encode(errors='replace')).hexdigest()}"

    def prepare(self, *, download: bool) -> None:  # noqa: ARG002
        """Check that all images have one size; later, a mismatch would stop a single rank."""
        listing = self._list()
        first, *rest = [name for phase in Phase for name in listing.files[phase]]
        size = self._size_of(first)
        for name in rest:
            if self._size_of(name) != size:
                raise InputError(
                    f"images differ in size: {printable(first)} and {printable(name)}. Run "
                    f"vigmpi prepare {self._folder} --image-size 64 to resize them."
                )

    def load(self, *, images: bool, labels: bool) -> None:  # noqa: ARG002 (files are read later)
        self._listing = self._list()
        self.class_names = self._listing.class_names
        height, width = self.image_size = self._size_of(self._listing.files[Phase.TRAIN][0])
        self.num_images = {phase: len(files) for phase, files in self._listing.files.items()}
        self.details = f"{self._folder}/: {self.num_classes} classes, {height}x{width} pixels"

    def images(self, phase: Phase, samples: Indices) -> Images:
        pixels = np.empty((len(samples), 3, *self.image_size), np.uint8)
        for image, sample in zip(pixels, samples.tolist(), strict=True):
            name = self._listing.files[phase][sample]
            image[:] = decode(self._read(name), name)
        return scaled(pixels)

    def labels(self, phase: Phase, samples: Indices) -> Labels:
        return self._listing.labels[phase][samples]

    def _list(self) -> Listing:
        try:
            names = ((member.name, member.is_folder) for member in walk(self._folder))
            return list_images(names, self._folder)
        except OSError as error:
            raise InputError(
                f"cannot read the data set: {error.filename} ({error.strerror}). Use --data-dir "
                f"with a folder in {LAYOUT} or a file written by vigmpi prepare."
            ) from error

    def _size_of(self, name: str) -> tuple[int, int]:
        return size_of(self._read(name), name)

    def _read(self, name: str) -> bytes:
        return read_file(self._folder / name, name)
