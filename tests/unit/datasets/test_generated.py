from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from vigmpi.datasets import DATASETS
from vigmpi.datasets.dataset import Dataset
from vigmpi.phase import Phase


def opened(name: str, seed: int = 0) -> Dataset:
    dataset = DATASETS[name](Path("nowhere"), seed)
    dataset.prepare(download=False)
    dataset.load(images=True, labels=True)
    return dataset


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_images_are_of_the_promised_number_size_and_range(name: str) -> None:
    dataset = opened(name)
    for phase in Phase:
        last = np.array([0, dataset.samples[phase] - 1])
        images, labels = dataset.images(phase, last), dataset.labels(phase, last)
        assert images.shape == (2, 3, 32, 32)
        assert images.dtype == np.float32
        assert 0 <= images.min() < 0.3
        assert 0.7 < images.max() <= 1
        assert labels.dtype == np.int64
        many = np.arange(250)
        assert set(dataset.labels(phase, many)) == set(range(dataset.num_classes))


def test_digits_are_scikit_learns_with_every_pixel_four_by_four() -> None:
    dataset, digits = opened("digits"), load_digits()
    assert dataset.samples[Phase.TRAIN] + dataset.samples[Phase.TEST] == len(digits.target)
    image = dataset.images(Phase.TEST, np.array([5]))[0]
    for corner in np.ndindex(4, 4):
        for channel in image[:, corner[0] :: 4, corner[1] :: 4]:
            np.testing.assert_allclose(channel, digits.images[1505] / 16, atol=0.003)
    assert dataset.labels(Phase.TEST, np.array([5])) == digits.target[1505]


def test_synthetic_images_depend_on_seed_phase_and_number_alone() -> None:
    dataset, again, other = opened("synthetic"), opened("synthetic"), opened("synthetic", seed=1)
    some = np.array([7, 8, 49_999])
    images = dataset.images(Phase.TRAIN, some)
    assert (again.images(Phase.TRAIN, some[::-1])[::-1] == images).all()
    assert not (other.images(Phase.TRAIN, some) == images).any(axis=(1, 2, 3)).any()
    small = np.array([7, 8])
    assert (dataset.images(Phase.TEST, small) != images[:2]).mean() > 0.9


def test_synthetic_classes_differ_more_than_their_images() -> None:
    """A nearest-spectrum rule finds the class: there is something to learn."""
    dataset = opened("synthetic")

    def spectra(phase: Phase, samples: np.ndarray) -> np.ndarray:
        grey = dataset.images(phase, samples).mean(axis=1)
        return abs(np.fft.rfft2(grey - grey.mean(axis=(1, 2), keepdims=True)))

    train, test = np.arange(200), np.arange(100)
    labels = dataset.labels(Phase.TRAIN, train)
    centres = np.array([spectra(Phase.TRAIN, train)[labels == k].mean(axis=0) for k in range(10)])
    distance = abs(spectra(Phase.TEST, test)[:, None] - centres).sum(axis=(2, 3))
    assert (distance.argmin(axis=1) == dataset.labels(Phase.TEST, test)).mean() > 0.9
