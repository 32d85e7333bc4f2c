import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigmpi.datasets.augmentation import Augmentation, draw
from vigmpi.errors import InputError
from vigmpi.phase import Phase

SAMPLES = np.arange(200)


def images(count: int = 200, sides: tuple[int, int] = (6, 5)) -> np.ndarray:
    return np.random.default_rng(0).random((count, 3, *sides), np.float32)


@given(st.permutations(range(20)), st.integers(0, 20), st.integers(0, 2**70), st.integers(0, 99))
def test_what_is_drawn_depends_on_seed_epoch_and_sample_alone(
    order: list[int], cut: int, seed: int, epoch: int
) -> None:
    augment = Augmentation(flip=True, crop=2, seed=seed)
    whole = augment(images(20), Phase.TRAIN, epoch, np.arange(20))
    for part in np.split(np.array(order), [cut]):
        found = augment(images(20)[part], Phase.TRAIN, epoch, part)
        np.testing.assert_array_equal(found, whole[part])


def test_an_image_is_mirrored_and_moved_pixel_by_pixel() -> None:
    before, most = images(), 3
    after = Augmentation(flip=True, crop=most, seed=5)(images(), Phase.TRAIN, 1, SAMPLES)
    seen = set()
    for image, changed in zip(before, after, strict=True):
        found = [
            (mirrored, down, right)
            for mirrored in (False, True)
            for down in range(-most, most + 1)
            for right in range(-most, most + 1)
            if (moved(image[:, :, ::-1] if mirrored else image, down, right) == changed).all()
        ]
        assert len(found) == 1
        seen.update(found)
    assert len(seen) > 70  # of 98


def moved(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """What of an image is left once it has been moved up and left; the rest is black."""
    result = np.zeros_like(image)
    height, width = image.shape[1:]
    for y, x in np.ndindex(height, width):
        if 0 <= y + down < height and 0 <= x + right < width:
            result[:, y, x] = image[:, y + down, x + right]
    return result


@pytest.mark.parametrize("bound", [2, 9])
def test_draws_are_even_and_apart(bound: int) -> None:
    """Over samples, epochs, seeds and purposes."""
    samples = np.arange(90_000)
    draws = [draw(*key, bound=bound) for key in [(0, 0, samples, 0), (0, 1, samples, 0)]]
    draws += [draw(1, 0, samples, 0, bound), draw(0, 0, samples, 1, bound)]
    draws.append(draws[0][np.r_[1 : len(samples), 0]])  # the neighbour's
    for drawn in draws:
        counts = np.bincount(drawn, minlength=bound)
        expected = len(samples) / bound
        assert ((counts - expected) ** 2 / expected).sum() < 30
    for other in draws[1:]:
        pairs = np.bincount(draws[0] * bound + other, minlength=bound**2)
        expected = len(samples) / bound**2
        assert ((pairs - expected) ** 2 / expected).sum() < bound**2 + 6 * bound * np.sqrt(2)


def test_test_images_are_normalised_and_no_more() -> None:
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.1, 0.2, 0.0])
    augment = Augmentation(flip=True, crop=2, mean=mean, std=std)
    found = augment(images(), Phase.TEST, 0, SAMPLES)
    scale = np.array([0.1, 0.2, 1.0])  # of what never changes, nothing is scaled
    expected = (images() - mean[:, None, None]) / scale[:, None, None]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found.dtype == np.float32


def test_by_default_nothing_is_changed() -> None:
    found = Augmentation()(images(), Phase.TRAIN, 3, SAMPLES)
    np.testing.assert_array_equal(found, images())


def test_a_crop_that_may_leave_nothing_is_refused() -> None:
    Augmentation(crop=4).check((5, 9))
    with pytest.raises(InputError, match=r"--random-crop 5 .*5x9.*type: --crop"):
        Augmentation(crop=5).check((5, 9))
