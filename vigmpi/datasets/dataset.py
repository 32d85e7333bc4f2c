from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vigmpi.errors import InputError
from vigmpi.phase import Phase

Pixels = NDArray[np.uint8]  # [images, 3, height, width]
Images = NDArray[np.float32]  # likewise, in [0, 1]
Labels = NDArray[np.int64]  # [images]
Indices = NDArray[np.int64]


class Dataset(ABC):
    """Labelled images.

    A rank calls `prepare` if it is the first of its host, then `load` for what it needs (a rank
    in the middle of a pipeline needs nothing), then `images` or `labels` for each micro-batch,
    from any thread.

    Attributes:
        name: the value of `--dataset`.
        about: what the images are, and where they were read from.
        class_names, image_size, samples: what labels stand for, height and width, images of
            each phase; known to every rank once `load` has returned, whatever it was asked for.
    """

    name: str
    about: str
    class_names: tuple[str, ...] = tuple("0123456789")
    image_size: tuple[int, int] = (32, 32)
    samples: dict[Phase, int]

    def __init__(self, data_dir: Path, seed: int) -> None:
        self._data_dir = data_dir
        self._seed = seed

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def description(self) -> str:
        return (
            f"{self.name} ({self.about}; {self.samples[Phase.TRAIN]:,} training and "
            f"{self.samples[Phase.TEST]:,} test images)"
        )

    @property
    def identity(self) -> str:
        """What all ranks must find alike for a number to mean the same sample to all of them."""
        return f"{self.name} {self.num_classes} {self.image_size} {sorted(self.samples.items())}"

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

    def mean_and_std(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of each channel over the training pixels in [0, 1], on ranks that loaded images.

        Raises:
            InputError: nobody has worked them out.
        """
        raise InputError(
            f"--normalize needs mean and deviation of all training images, which --dataset "
            f"{self.name} does not bring; type: --no-normalize, or prepare a file that holds "
            f"them: vigmpi prepare SOURCE"
        )


class InMemory(Dataset):
    """A data set small enough to be held whole, as uint8 pixels."""

    def __init__(self, data_dir: Path, seed: int) -> None:
        super().__init__(data_dir, seed)
        self._pixels: dict[Phase, Pixels] = {}
        self._labels: dict[Phase, Labels] = {}

    @abstractmethod
    def _read(self, phase: Phase) -> tuple[Pixels, Labels]:
        """All pixels and labels of a phase."""

    def load(self, *, images: bool, labels: bool) -> None:
        if not (images or labels):
            return
        for phase in Phase:
            pixels, labels_read = self._read(phase)
            if images:
                self._pixels[phase] = pixels
            if labels:
                self._labels[phase] = labels_read

    def images(self, phase: Phase, samples: Indices) -> Images:
        return scaled(self._pixels[phase][samples])

    def labels(self, phase: Phase, samples: Indices) -> Labels:
        return self._labels[phase][samples]

    def mean_and_std(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        pixels = self._pixels[Phase.TRAIN]
        return mean_and_std(channel_counts(pixels))


def scaled(pixels: Pixels) -> Images:
    """Bring pixels to [0, 1]."""
    return np.divide(pixels, 255, dtype=np.float32)


def channel_counts(pixels: Pixels) -> NDArray[np.int64]:
    """How often each value occurs in each channel, [3, 256]: adds up exactly, in any order."""
    return np.array(
        [np.bincount(channel.ravel(), minlength=256) for channel in pixels.swapaxes(0, 1)]
    )


def mean_and_std(counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and (biased) standard deviation of each channel in [0, 1], from `channel_counts`."""
    share = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = share @ values
    return mean, np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
