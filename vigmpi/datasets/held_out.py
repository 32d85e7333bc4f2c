from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vigmpi.datasets.dataset import Dataset, Images, Indices, Labels
from vigmpi.errors import InputError
from vigmpi.hashing import random_words
from vigmpi.phase import Phase

_HELD_OUT = 3  # purpose of the random words; augmentation has 0 to 2


class HeldOut(Dataset):
    """Data set that tests on a part of the training images, on which it does not train.

    Its test images are not used. The part depends only on the seed and on both numbers of images.

    Args:
        dataset: the data set, loaded.
        num_held_out: number of training images to test on.

    Attributes:
        samples: index of each image of a phase among the training images of `dataset`.

    Raises:
        InputError: if no image would be left to train on.
    """

    def __init__(self, dataset: Dataset, num_held_out: int, seed: int) -> None:
        super().__init__(Path(), seed)
        total = dataset.num_images[Phase.TRAIN]
        if num_held_out >= total:
            raise InputError(
                f"too many images to hold out: --holdout {num_held_out} of {total} training "
                f"images. Use --holdout {max(1, total // 10)}."
            )
        order = np.argsort(random_words(np.arange(total), seed, 0, _HELD_OUT), kind="stable")
        held_out, others = np.sort(order[:num_held_out]), np.sort(order[num_held_out:])
        self.samples: dict[Phase, Indices] = {Phase.TRAIN: others, Phase.TEST: held_out}
        self.num_images = {phase: len(samples) for phase, samples in self.samples.items()}
        self._dataset = dataset
        self.name, self.details = dataset.name, dataset.details
        self.class_names, self.image_size = dataset.class_names, dataset.image_size

    @property
    def description(self) -> str:
        train, test = self.num_images[Phase.TRAIN], self.num_images[Phase.TEST]
        return f"{self.name} ({self.details}; {train:,} training and {test:,} held-out images)"

    def load(self, *, images: bool, labels: bool) -> None: ...

    def images(self, phase: Phase, samples: Indices) -> Images:
        return self._dataset.images(Phase.TRAIN, self.samples[phase][samples])

    def strips(self, phase: Phase, samples: Indices, rows: range) -> Images:
        return self._dataset.strips(Phase.TRAIN, self.samples[phase][samples], rows)

    def labels(self, phase: Phase, samples: Indices) -> Labels:
        return self._dataset.labels(Phase.TRAIN, self.samples[phase][samples])

    def mean_and_std(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return self._dataset.mean_and_std()
