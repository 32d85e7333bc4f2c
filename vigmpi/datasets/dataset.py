from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vigmpi.phase import Phase

Images = NDArray[np.float32]  # [images, 3, height, width], in [0, 1]
Labels = NDArray[np.int64]  # [images]
Indices = NDArray[np.int64]


class Dataset(ABC):
    """Labelled images whose number, size and classes are known before anything is read.

    A rank calls `prepare` if it is the first of its host, then `load` for what it needs (a rank
    in the middle of a pipeline needs nothing), then `images` or `labels` for each micro-batch.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    classes: ClassVar[int] = 10
    image_size: ClassVar[tuple[int, int]] = (32, 32)
    samples: ClassVar[dict[Phase, int]]

    def __init__(self, data_dir: Path, seed: int) -> None:
        self._data_dir = data_dir
        self._seed = seed

    @property
    def description(self) -> str:
        return (
            f"{self.name} ({self.about}; {self.samples[Phase.TRAIN]:,} training and "
            f"{self.samples[Phase.TEST]:,} test images)"
        )

    @classmethod
    def found_in(cls, data_dir: Path) -> bool:  # noqa: ARG003
        """Whether the data folder holds what this data set is read from."""
        return True

    def prepare(self, *, download: bool) -> None:  # noqa: B027
        """Make the files ready on this host.

        Raises:
            InputError: they are not there, or not what they should be.
        """

    @abstractmethod
    def load(self, *, images: bool, labels: bool) -> None:
        """Read what this rank needs.

        Raises:
            InputError: the files cannot be read.
        """

    @abstractmethod
    def images(self, phase: Phase, samples: Indices) -> Images: ...

    @abstractmethod
    def labels(self, phase: Phase, samples: Indices) -> Labels: ...


class InMemory(Dataset):
    """A data set small enough to be held whole, as uint8 pixels."""

    def __init__(self, data_dir: Path, seed: int) -> None:
        super().__init__(data_dir, seed)
        self._pixels: dict[Phase, NDArray[np.uint8]] = {}
        self._labels: dict[Phase, Labels] = {}

    @abstractmethod
    def _read(self, phase: Phase) -> tuple[NDArray[np.uint8], Labels]:
        """All pixels [images, 3, height, width] and labels of a phase."""

    def load(self, *, images: bool, labels: bool) -> None:
        if not (images or labels):
            return
        for phase in Phase:
            pixels, classes = self._read(phase)
            if images:
                self._pixels[phase] = pixels
            if labels:
                self._labels[phase] = classes

    def images(self, phase: Phase, samples: Indices) -> Images:
        return np.divide(self._pixels[phase][samples], 255, dtype=np.float32)

    def labels(self, phase: Phase, samples: Indices) -> Labels:
        return self._labels[phase][samples]
