from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from vigmpi.datasets import open_dataset
from vigmpi.datasets.dataset import Dataset
from vigmpi.phase import Phase


def opened(name: str, seed: int = 0) -> Dataset:
    dataset = open_dataset(name, Path("nowhere"), seed)
    dataset.prepare(download=False, progress=lambda *_: None)
    dataset.load(images=True, labels=True)
    return dataset


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_images_have_the_documented_number_size_and_range(name: str) -> None:
    dataset = opened(name)
    for phase in Phase:
        ends = np.array([0, dataset.num_images[phase] - 1])
        images, labels = dataset.images(phase, ends), dataset.labels(phase, ends)
        assert images.shape == (2, 3, 32, 32)
        assert images.dtype == np.float32
        assert 0 <= images.min() < 0.3
        assert 0.7 < images.max() <= 1
        assert labels.dtype == np.int64
        assert set(dataset.labels(phase, np.arange(250))) == set(range(dataset.num_classes))


def test_digits_equal_those_of_scikit_learn_enlarged_four_times() -> None:
    dataset, digits = opened("digits"), load_digits()
    assert dataset.num_images[Phase.TRAIN] + dataset.num_images[Phase.TEST] == len(digits.target)
    image = dataset.images(Phase.TEST, np.array([5]))[0]
    for corner in np.ndindex(4, 4):
        for channel in image[:, corner[0] :: 4, corner[1] :: 4]:
            np.testing.assert_allclose(channel, digits.images[1505] / 16, atol=0.003)
    assert dataset.labels(Phase.TEST, np.array([5])) == digits.target[1505]


def test_synthetic_images_depend_only_on_seed_phase_and_index() -> None:
    dataset, again, other = opened("synthetic"), opened("synthetic"), opened("synthetic", seed=1)
    samples = np.array([7, 8, 49_999])
    images = dataset.images(Phase.TRAIN, samples)
    assert (again.images(Phase.TRAIN, samples[::-1])[::-1] == images).all()
    assert not (other.images(Phase.TRAIN, samples) == images).any(axis=(1, 2, 3)).any()
    assert (dataset.images(Phase.TEST, samples[:2]) != images[:2]).mean() > 0.9


@pytest.mark.parametrize("size", [(32, 32), (9, 1), (1100, 300)])
def test_strips_of_synthetic_images_have_their_pixels(size: tuple[int, int]) -> None:
    dataset, samples = opened("synthetic"), np.array([5, 40_000])
    dataset.set_image_size(size)
    images = dataset.images(Phase.TRAIN, samples)
    for rows in (range(size[0] // 2), range(size[0] // 2, size[0]), range(1, 3)):
        strips = dataset.strips(Phase.TRAIN, samples, rows)
        np.testing.assert_array_equal(strips, images[:, :, rows.start : rows.stop])


def test_synthetic_classes_can_be_told_apart_by_their_spectra() -> None:
    """Classify by the nearest mean spectrum, which shows that the classes can be learnt."""
    dataset = opened("synthetic")

    def spectra(phase: Phase, samples: np.ndarray) -> np.ndarray:
        grey = dataset.images(phase, samples).mean(axis=1)
        return abs(np.fft.rfft2(grey - grey.mean(axis=(1, 2), keepdims=True)))

    train, test = np.arange(200), np.arange(100)
    labels = dataset.labels(Phase.TRAIN, train)
    centres = np.array([spectra(Phase.TRAIN, train)[labels == k].mean(axis=0) for k in range(10)])
    distance = abs(spectra(Phase.TEST, test)[:, None] - centres).sum(axis=(2, 3))
    assert (distance.argmin(axis=1) == dataset.labels(Phase.TEST, test)).mean() > 0.9
