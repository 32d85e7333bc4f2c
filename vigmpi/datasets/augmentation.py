"""Random changes to training images, and normalisation."""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from vigmpi.datasets.dataset import Images, Indices
from vigmpi.errors import InputError
from vigmpi.phase import Phase

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FLIP, _DOWN, _RIGHT = range(3)  # what a number is drawn for


@dataclass(frozen=True)
class Augmentation:
    """What is done to images before a model sees them; by default nothing.

    Attributes:
        flip: mirror every other training image, left to right.
        crop: move training images by up to so many pixels each way, black coming in.
        mean, std: of each channel, [3]: brought to 0 and 1; None: left as they are.
        seed: of the random choices. They depend on it, the epoch and the sample alone, so on no
            layout.
    """

    flip: bool = False
    crop: int = 0
    mean: NDArray[np.floating] | None = None
    std: NDArray[np.floating] | None = None
    seed: int = 0

    @property
    def normalization(self) -> list[list[float]]:
        """Means and deviations, [2, 3]; empty without."""
        if self.mean is None or self.std is None:
            return []
        return [self.mean.tolist(), self.std.tolist()]

    def check(self, image_size: tuple[int, int]) -> None:
        """Raise InputError where an image could be moved out of sight."""
        if self.crop >= min(image_size):
            raise InputError(
                f"--crop {self.crop} can move images of {image_size[0]}x{image_size[1]} pixels "
                f"out of sight; type: --crop {min(image_size) // 8}"
            )

    def __call__(self, images: Images, phase: Phase, epoch: int, samples: Indices) -> Images:
        """Args: images: [images, 3, height, width], which may be changed; samples: their numbers.

        Returns: likewise.
        """
        if phase is Phase.TRAIN and self.flip:
            mirrored = draw(self.seed, epoch, samples, _FLIP, 2) == 1
            images[mirrored] = images[mirrored, :, :, ::-1]
        if phase is Phase.TRAIN and self.crop:
            down = draw(self.seed, epoch, samples, _DOWN, 2 * self.crop + 1)
            right = draw(self.seed, epoch, samples, _RIGHT, 2 * self.crop + 1)
            images = _moved(images, self.crop, down, right)
        if self.mean is not None and self.std is not None:
            # Of a channel that never changes, nothing is left to scale.
            scale = 1 / np.where(self.std > 0, self.std, 1)
            images -= self.mean.astype(np.float32)[:, None, None]
            images *= scale.astype(np.float32)[:, None, None]
        return images


def _moved(images: Images, most: int, down: Indices, right: Indices) -> Images:
    """Args: down, right: 0 to 2 * most; most: where they are."""
    beside = (most, most)
    padded = np.pad(images, ((0, 0), (0, 0), beside, beside))
    windows = sliding_window_view(padded, images.shape[2:], axis=(2, 3))
    return np.ascontiguousarray(windows[np.arange(len(images)), :, down, right])


def draw(seed: int, epoch: int, samples: Indices, purpose: int, bound: int) -> Indices:
    """A random number below `bound` for each sample.

    A hash instead of a generator, so that any samples' numbers are had at once, in any order:
    SplitMix64's finalizer (Steele, Lea, Flood, OOPSLA 2014) over one word after the other. The
    remainder by a bound of some pixels is even to 1e-17.
    """
    state = np.zeros(len(samples), dtype=np.uint64)
    for word in (seed & (2**64 - 1), epoch, purpose, samples):
        state = _finalize(state * _GOLDEN + np.asarray(word).astype(np.uint64) + _GOLDEN)
    return (state % np.uint64(bound)).astype(np.int64)


def _finalize(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
