from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vigmpi.errors import InputError
from vigmpi.phase import Phase

Pixels = NDArray[np.uint8]  # [images, 3, height, width]
Images = NDArray[np.float32]  # same shape, in [0, 1]
Labels = NDArray[np.int64]  # [images]
Indices = NDArray[np.int64]
Progress = Callable[[int, int], None]  # called with the number done, and in all if known, else 0


class Dataset(ABC):
    """Labelled images of a training and a test phase.

    Rank 0 calls `prepare`, and all ranks take over its `index`; then the first rank of each other
    host calls `prepare`. Every rank then calls `load`, and `images` or `labels` for each
    micro-batch, from any thread; a middle stage needs neither.

    Attributes:
        name: value of `--dataset`.
        index: what `prepare` found on rank 0, if the other ranks need it.
        details: a phrase that says what the images are and where they were read from.
        class_names: names of the classes; a label is an index into them.
        image_size: height and width, in pixels.
        num_images: number of images in each phase.

    All ranks know these attributes once `load` has returned.
    """

    name: str
    index: bytes = b""
    details: str
    class_names: tuple[str, ...] = tuple("0123456789")
    image_size: tuple[int, int] = (32, 32)
    num_images: dict[Phase, int]

    def __init__(self, data_dir: Path, seed: int) -> None:
        self._data_dir = data_dir
        self._seed = seed

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def description(self) -> str:
        return (
            f"{self.name} ({self.details}; {self.num_images[Phase.TRAIN]:,} training and "
            f"{self.num_images[Phase.TEST]:,} test images)"
        )

    @property
    def identity(self) -> str:
        """Text that differs between ranks if an index may refer to different images on them."""
        return f"{self.name} {self.num_classes} {self.image_size} {sorted(self.num_images.items())}"

    def set_image_size(self, image_size: tuple[int, int]) -> None:
        """Set the height and width of generated images, before `prepare`.

        Raises:
            InputError: if the images are not generated.
        """
        height, width = image_size
        raise InputError(
            f"images of a fixed size: --image-size {height}x{width} for --dataset {self.name}. "
            f"Omit --image-size, or use --dataset synthetic."
        )

    def set_test_share(self, share: float) -> None:
        """Set the fraction of each class's images to test on, before `prepare`.

        Raises:
            InputError: if the data set has test images.
        """
        raise InputError(
            f"test images exist: --test-share {share:g} for --dataset {self.name}. Omit "
            f"--test-share."
        )

    def prepare(self, *, download: bool, progress: Progress) -> None:  # noqa: B027
        """Check the files on this host, after downloading them if `download` is set.

        Raises:
            InputError: if files are missing or invalid.
        """

    @abstractmethod
    def load(self, *, images: bool, labels: bool) -> None:
        """Read the images, the labels, both or neither, as this rank needs them.

        Raises:
            InputError: if the files cannot be read.
        """

    @abstractmethod
    def images(self, phase: Phase, samples: Indices) -> Images: ...

    def strips(self, phase: Phase, samples: Indices, rows: range) -> Images:
        """Return some rows of images, [images, 3, rows, width]."""
        return self.images(phase, samples)[:, :, rows.start : rows.stop]

    @abstractmethod
    def labels(self, phase: Phase, samples: Indices) -> Labels: ...

    def mean_and_std(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and standard deviation of each channel of the training images in [0, 1], [3].

        Only ranks that have loaded images may call this.

        Raises:
            InputError: if the data set does not provide them.
        """
        raise InputError(
            f"no mean and standard deviation for --normalize: --dataset {self.name}. "
            f"Use --no-normalize or a file written by vigmpi prepare SOURCE."
        )


class InMemory(Dataset):
    """Data set that is kept in memory as uint8 pixels."""

    def __init__(self, data_dir: Path, seed: int) -> None:
        super().__init__(data_dir, seed)
        self._pixels: dict[Phase, Pixels] = {}
        self._labels: dict[Phase, Labels] = {}

    @abstractmethod
    def _read(self, phase: Phase) -> tuple[Pixels, Labels]:
        """Return all pixels and labels of a phase."""

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
    """Return pixels scaled to [0, 1]."""
    return np.divide(pixels, 255, dtype=np.float32)


def channel_counts(pixels: Pixels) -> NDArray[np.int64]:
    """Return the histogram of each channel, [3, 256]; histograms add up exactly in any order."""
    return np.array(
        [np.bincount(channel.ravel(), minlength=256) for channel in pixels.swapaxes(0, 1)]
    )


def mean_and_std(counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and (biased) standard deviation of each channel in [0, 1] from histograms."""
    weights = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = weights @ values
    return mean, np.sqrt((weights * (values - mean[:, None]) ** 2).sum(axis=1))
