import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigmpi.datasets.augmentation import Augmentation, draw
from vigmpi.errors import InputError
from vigmpi.phase import Phase

SAMPLES = np.arange(200)


def images(count: int = 200) -> np.ndarray:
    return np.random.default_rng(0).random((count, 3, 6, 5), np.float32)


@given(st.permutations(range(20)), st.integers(0, 20), st.integers(0, 2**70), st.integers(0, 99))
def test_augmentation_depends_only_on_seed_epoch_and_sample(
    order: list[int], cut: int, seed: int, epoch: int
) -> None:
    augment = Augmentation(flip=True, crop=2, seed=seed)
    expected = augment(images(20), Phase.TRAIN, epoch, np.arange(20))
    for samples in np.split(np.array(order), [cut]):
        augmented = augment(images(20)[samples], Phase.TRAIN, epoch, samples)
        np.testing.assert_array_equal(augmented, expected[samples])


def test_each_image_is_mirrored_or_not_and_shifted_by_whole_pixels() -> None:
    limit = 3
    augmented = Augmentation(flip=True, crop=limit, seed=5)(images(), Phase.TRAIN, 1, SAMPLES)
    seen = set()
    for before, after in zip(images(), augmented, strict=True):
        matches = [
            (mirrored, down, right)
            for mirrored in (False, True)
            for down in range(-limit, limit + 1)
            for right in range(-limit, limit + 1)
            if (shifted(before[:, :, ::-1] if mirrored else before, down, right) == after).all()
        ]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) > 70  # of 98 combinations


def shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """Return an image moved up by `down` and left by `right` pixels, with a black border."""
    result = np.zeros_like(image)
    height, width = image.shape[1:]
    for y, x in np.ndindex(height, width):
        if 0 <= y + down < height and 0 <= x + right < width:
            result[:, y, x] = image[:, y + down, x + right]
    return result


@pytest.mark.parametrize("bound", [2, 9])
def test_random_numbers_are_uniform_and_independent(bound: int) -> None:
    """Compare samples, epochs, seeds and purposes in chi-squared tests."""
    samples = np.arange(90_000)
    draws = [draw(*key, bound=bound) for key in [(0, 0, samples, 0), (0, 1, samples, 0)]]
    draws += [draw(1, 0, samples, 0, bound), draw(0, 0, samples, 1, bound)]
    draws.append(draws[0][np.r_[1 : len(samples), 0]])  # of the next sample
    for numbers in draws:
        counts = np.bincount(numbers, minlength=bound)
        expected = len(samples) / bound
        assert ((counts - expected) ** 2 / expected).sum() < 30
    for other in draws[1:]:
        pairs = np.bincount(draws[0] * bound + other, minlength=bound**2)
        expected = len(samples) / bound**2
        assert ((pairs - expected) ** 2 / expected).sum() < bound**2 + 6 * bound * np.sqrt(2)


def test_test_images_are_normalised_but_not_augmented() -> None:
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.1, 0.2, 0.0])
    augment = Augmentation(flip=True, crop=2, mean=mean, std=std)
    normalised = augment(images(), Phase.TEST, 0, SAMPLES)
    scale = np.array([0.1, 0.2, 1.0])  # a constant channel is not scaled
    expected = (images() - mean[:, None, None]) / scale[:, None, None]
    np.testing.assert_allclose(normalised, expected, rtol=1e-5, atol=1e-6)
    assert normalised.dtype == np.float32


def test_images_are_unchanged_by_default() -> None:
    unchanged = Augmentation()(images(), Phase.TRAIN, 3, SAMPLES)
    np.testing.assert_array_equal(unchanged, images())


def test_a_crop_that_could_remove_the_complete_image_is_rejected() -> None:
    Augmentation(crop=4).check((5, 9))
    message = r": --random-crop 5 .*5x9.*\. Use a value below 5, for example --random-crop 0\.$"
    with pytest.raises(InputError, match=message):
        Augmentation(crop=5).check((5, 9))
