import numpy as np
from numba import njit
from scipy.special import ndtr

from tests.unit.kernels.derive_gelu import derive
from vigmpi.kernels.fused_gelu import DENSITIES, SCALE, TAILS, scaled_gelu, scaled_gelu_and_slope


@njit
def evaluate(x, gelu, both, slope):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        gelu[i] = scaled_gelu(x[i])
        both[i], slope[i] = scaled_gelu_and_slope(x[i])


def compiled(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return z rounded to fp32, gelu by both functions, and its slope."""
    x = (z / SCALE).astype(np.float32)
    gelu, both, slope = np.empty((3, len(x)), np.float32)
    evaluate(x, gelu, both, slope)
    z, gelu, both = SCALE * np.array([x, gelu / 2, both / 2], dtype=np.float64)
    return z, gelu, both, slope / 2


def test_gelu_and_its_slope_are_accurate_to_fp32() -> None:
    z, gelu, both, slope = compiled(np.linspace(-12, 12, 1_000_001))
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    assert abs(gelu - z * ndtr(z)).max() < 4e-7
    assert abs(both - z * ndtr(z)).max() < 4e-7
    assert abs(slope - (ndtr(z) + z * density)).max() < 9e-7


def test_large_values_and_zero_give_the_limits() -> None:
    z = np.array([-1e30, -1e3, 0, 1e3, 1e30])
    _, gelu, _, slope = compiled(z)
    assert (abs(gelu - np.maximum(z, 0)) <= 1e-7 * abs(z)).all()
    np.testing.assert_allclose(slope, [0, 0, 0.5, 1, 1], atol=3e-7)


def test_non_finite_values_propagate() -> None:
    _, gelu, both, slope = compiled(np.array([np.nan, np.inf, -np.inf]))
    assert not np.isfinite(gelu).any()
    assert not np.isfinite(both).any()
    assert np.isnan(slope[0])


def test_the_coefficients_are_those_that_the_script_derives() -> None:
    scale, tails, densities = derive()
    np.testing.assert_allclose(SCALE, scale, rtol=1e-6)
    np.testing.assert_allclose(TAILS, tails, rtol=1e-5)
    np.testing.assert_allclose(DENSITIES, densities, rtol=1e-5)
