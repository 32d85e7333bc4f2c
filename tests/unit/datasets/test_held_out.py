from pathlib import Path

import numpy as np
import pytest

from vigmpi.datasets.dataset import Dataset, Images, Indices, Labels
from vigmpi.datasets.held_out import HeldOut
from vigmpi.errors import InputError
from vigmpi.phase import Phase


class Numbered(Dataset):
    """Images and labels equal to the sample's index, from 1000 on in the test."""

    name, details, image_size = "numbered", "for tests", (1, 1)
    num_images = {Phase.TRAIN: 100, Phase.TEST: 7}  # noqa: RUF012

    def load(self, *, images: bool, labels: bool) -> None: ...

    def images(self, phase: Phase, samples: Indices) -> Images:
        return np.broadcast_to(
            self.labels(phase, samples)[:, None, None, None], (len(samples), 3, 1, 1)
        ).astype("f4")

    def labels(self, phase: Phase, samples: Indices) -> Labels:
        return samples + 1000 * (phase is Phase.TEST)


def labels(dataset: Dataset, phase: Phase) -> set[int]:
    samples = np.arange(dataset.num_images[phase])
    found = dataset.labels(phase, samples)
    np.testing.assert_array_equal(dataset.images(phase, samples)[:, 0, 0, 0], found)
    return set(found.tolist())


def test_held_out_images_are_tested_and_no_longer_trained_on() -> None:
    dataset = HeldOut(Numbered(Path(), 0), 30, seed=4)
    assert dataset.num_images == {Phase.TRAIN: 70, Phase.TEST: 30}
    train, test = labels(dataset, Phase.TRAIN), labels(dataset, Phase.TEST)
    assert train | test == set(range(100))
    assert not train & test
    assert "70 training and 30 held-out images" in dataset.description


def test_the_part_depends_on_the_seed_alone_and_grows_with_its_size() -> None:
    parts = {
        (size, seed): labels(HeldOut(Numbered(Path(), 0), size, seed), Phase.TEST)
        for size in (20, 30)
        for seed in (4, 5)
    }
    assert parts[30, 4] == labels(HeldOut(Numbered(Path(), 9), 30, 4), Phase.TEST)
    assert parts[30, 4] != parts[30, 5]
    assert parts[20, 4] < parts[30, 4]


def test_some_images_must_remain() -> None:
    with pytest.raises(
        InputError, match=r"--holdout 100 of 100 training images. Use --holdout 10."
    ):
        HeldOut(Numbered(Path(), 0), 100, 0)
