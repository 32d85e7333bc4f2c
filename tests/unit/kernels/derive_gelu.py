"""Find GELU's coefficients: `python tests/unit/kernels/derive_gelu.py`."""

from typing import NamedTuple

import numpy as np
from numpy.polynomial import chebyshev, polynomial
from scipy.special import ndtr

END = 6.0  # beyond it the tails are taken as constant
DEGREE = 8


class Coefficients(NamedTuple):
    scale: float
    p: np.ndarray
    w: np.ndarray


def minimax(x: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The polynomial whose largest weighted error on x is least, by Lawson's iteration.

    Source: Lawson, "Contributions to the theory of linear least maximum approximation",
    PhD thesis, UCLA, 1961.
    """
    basis = chebyshev.chebvander(2 * x / x[-1] - 1, DEGREE) * weights[:, None]
    lawson = np.full(len(x), 1 / len(x))
    for _ in range(300):
        root = np.sqrt(lawson)
        fit, *_ = np.linalg.lstsq(basis * root[:, None], values * weights * root, rcond=None)
        lawson *= abs(basis @ fit - values * weights)
        lawson /= lawson.sum()
    powers = chebyshev.Chebyshev(fit, domain=[0, x[-1]]).convert(kind=polynomial.Polynomial)
    return np.asarray(powers.coef)


def derive() -> Coefficients:
    t = END * (1 - np.cos(np.linspace(0, np.pi, 4001))) / 2
    tail, density = ndtr(-t), np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)
    # An error d of p makes one of 8 t p^7 d in t p^8, the part of gelu that it stands for.
    # Minus the root: its leading coefficient is negative, and is to become 1.
    p = -minimax(t, tail**0.125, 8 * t * tail**0.875 + 1e-9)
    scale = p[-1] ** (-1 / DEGREE)
    x, p = t / scale, p * scale ** np.arange(DEGREE + 1)
    power = polynomial.polyval(x, p) ** 7
    return Coefficients(scale, p, minimax(x, (tail - t * density) / power, abs(power)))


if __name__ == "__main__":
    for name, value in derive()._asdict().items():
        print(name, np.array2string(np.asarray(value), precision=9, separator=", "))
