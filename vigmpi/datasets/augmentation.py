"""Random augmentation of training images, and normalisation."""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from vigmpi.datasets.dataset import Images, Indices
from vigmpi.errors import InputError
from vigmpi.hashing import random_words
from vigmpi.phase import Phase

_FLIP, _DOWN, _RIGHT = range(3)  # purposes of a random number


@dataclass(frozen=True)
class Augmentation:
    """Augmentation and normalisation of images; by default images are left unchanged.

    Attributes:
        flip: whether to mirror each training image horizontally with probability 1/2.
        crop: maximum shift of training images in each direction, in pixels; the border is black.
        mean, std: statistics of each channel that are normalised to 0 and 1, [3], or None.
        seed: seed of the random choices, which otherwise depend only on epoch and sample.
    """

    flip: bool = False
    crop: int = 0
    mean: NDArray[np.floating] | None = None
    std: NDArray[np.floating] | None = None
    seed: int = 0

    @property
    def normalization(self) -> list[list[float]]:
        """Means and standard deviations, [2, 3], or an empty list."""
        if self.mean is None or self.std is None:
            return []
        return [self.mean.tolist(), self.std.tolist()]

    def check(self, image_size: tuple[int, int]) -> None:
        """Raise InputError if an image could be shifted entirely out of the frame."""
        if self.crop >= min(image_size):
            raise InputError(
                f"random crop too large: --random-crop {self.crop} can shift images of "
                f"{image_size[0]}x{image_size[1]} pixels out of the frame. Use a value below "
                f"{min(image_size)}, for example --random-crop {min(image_size) // 8}."
            )

    def __call__(self, images: Images, phase: Phase, epoch: int, samples: Indices) -> Images:
        """Return the images as the model sees them, [images, 3, height, width].

        Args:
            images: images of the same shape; they may be modified in place.
            samples: index of each image in its phase.
        """
        if phase is Phase.TRAIN and self.flip:
            mirrored = draw(self.seed, epoch, samples, _FLIP, 2) == 1
            images[mirrored] = images[mirrored, :, :, ::-1]
        if phase is Phase.TRAIN and self.crop:
            down = draw(self.seed, epoch, samples, _DOWN, 2 * self.crop + 1)
            right = draw(self.seed, epoch, samples, _RIGHT, 2 * self.crop + 1)
            images = _shifted(images, self.crop, down, right)
        if self.mean is not None and self.std is not None:
            # A constant channel has nothing to scale.
            scale = 1 / np.where(self.std > 0, self.std, 1)
            images -= self.mean.astype(np.float32)[:, None, None]
            images *= scale.astype(np.float32)[:, None, None]
        return images


def _shifted(images: Images, limit: int, down: Indices, right: Indices) -> Images:
    """Return the images moved up by `down - limit` and left by `right - limit` pixels."""
    border = (limit, limit)
    padded = np.pad(images, ((0, 0), (0, 0), border, border))
    windows = sliding_window_view(padded, images.shape[2:], axis=(2, 3))
    return np.ascontiguousarray(windows[np.arange(len(images)), :, down, right])


def draw(seed: int, epoch: int, samples: Indices, purpose: int, bound: int) -> Indices:
    """Return a random number in [0, bound) for each sample.

    The remainder is uniform to 1e-17 for a bound of a few pixels.
    """
    words = random_words(samples, seed, epoch, purpose)
    return (words % np.uint64(bound)).astype(np.int64)
