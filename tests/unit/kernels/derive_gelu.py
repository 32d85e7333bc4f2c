"""Derivation of the coefficients of GELU: `python tests/unit/kernels/derive_gelu.py`."""

from typing import NamedTuple

import numpy as np
from numpy.polynomial import chebyshev, polynomial
from scipy.special import ndtr

END = 6.0  # tails and densities are constant beyond it
TAILS_ROOT, TAILS_DEGREE = 8, 8
DENSITIES_ROOT, DENSITIES_DEGREE = 16, 4


class Coefficients(NamedTuple):
    scale: float
    tails: np.ndarray
    densities: np.ndarray


def minimax(x: np.ndarray, values: np.ndarray, weights: np.ndarray, degree: int) -> np.ndarray:
    """Return the polynomial with the least maximum weighted error on x, by Lawson's iteration.

    Source: Lawson, "Contributions to the theory of linear least maximum approximation",
    PhD thesis, UCLA, 1961.
    """
    basis = chebyshev.chebvander(2 * x / x[-1] - 1, degree) * weights[:, None]
    lawson = np.full(len(x), 1 / len(x))
    for _ in range(400):
        root = np.sqrt(lawson)
        fit, *_ = np.linalg.lstsq(basis * root[:, None], values * weights * root, rcond=None)
        lawson *= abs(basis @ fit - values * weights)
        lawson /= lawson.sum()
    powers = chebyshev.Chebyshev(fit, domain=[0, x[-1]]).convert(kind=polynomial.Polynomial)
    return np.asarray(powers.coef)


def root_fit(
    x: np.ndarray, values: np.ndarray, weights: np.ndarray, root: int, degree: int
) -> np.ndarray:
    """Return the polynomial in x whose `root`-th power is nearest to values, by weighted error."""
    roots = values ** (1 / root)  # an error d of the root is an error root * values / roots * d
    return minimax(x, roots, root * values / roots * weights, degree)


def derive() -> Coefficients:
    """Return the coefficients of `vigmpi.kernels.fused_gelu`."""
    t = END * (1 - np.cos(np.linspace(0, np.pi, 4001))) / 2
    # An error d of the tails is an error d of 2 gelu' and an error d t of 2 gelu.
    tails = root_fit(t, 2 * ndtr(-t), np.maximum(t, 0.5), TAILS_ROOT, TAILS_DEGREE)
    tails = -tails  # the power is even; scaling can now make the leading coefficient 1
    scale = tails[-1] ** (-1 / TAILS_DEGREE)
    x = t / scale
    densities = 2 * scale * np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)
    return Coefficients(
        scale,
        tails * scale ** np.arange(TAILS_DEGREE + 1),
        root_fit(x**2, densities, x, DENSITIES_ROOT, DENSITIES_DEGREE),
    )


if __name__ == "__main__":
    for name, value in derive()._asdict().items():
        print(name, np.array2string(np.asarray(value), precision=9, separator=", "))
