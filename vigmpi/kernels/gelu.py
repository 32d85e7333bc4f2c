"""GELU with the error function, and its derivative, without a division or an exponential.

With Q the upper tail and phi the density of the normal distribution,

    gelu(z) = max(z, 0) - |z| Q(|z|)
    gelu'(z) = 1/2 + sign(z) (1/2 - Q(|z|) + |z| phi(|z|))

Q's eighth root is nearly a polynomial p of degree 8 in |z|, and Q - |z| phi nearly p^7 times
another, w. Everything is in units of SCALE, z = SCALE x, which makes p's leading coefficient 1.
Beyond |z| = 6 the tails keep their values there, below 1e-8 and 4e-8.

`tests/unit/kernels/derive_gelu.py` finds the coefficients.
"""

import math

import numpy as np
from numba import njit

SCALE = 6.5480284

# From the constant upwards, in powers of |x|.
P = (
    *(-0.91700404, 0.59886592, 1.36896982, 0.18865679, -2.76563525),
    *(-0.41283686, 4.74978988, -3.86053968, 1.0),
)
W = (
    *(-0.91700397, 5.38980475, 23.27177028, 4.72943962, -91.3792249),
    *(-16.40242259, 231.42568622, -218.37173465, 64.147522),
)

_P = tuple(map(np.float32, P))
_W = tuple(map(np.float32, W))
_ZERO, _HALF, _END = np.float32(0), np.float32(0.5), np.float32(6 / SCALE)

# Without "nnan" and "ninf", and with comparisons that let NaN through, a NaN or infinity that
# comes in also goes out.
_FLAGS = {"contract"}


@njit(fastmath=_FLAGS)
def _polynomial(x, c):  # type: ignore[no-untyped-def]
    """Degree 8; by halves, since a chain of eight fused multiply-adds would be latency."""
    x2 = x * x
    low = (c[3] * x + c[2]) * x2 + (c[1] * x + c[0])
    high = ((c[8] * x + c[7]) * x + c[6]) * x2 + (c[5] * x + c[4])
    return high * (x2 * x2) + low


@njit(fastmath=_FLAGS)
def scaled_gelu(x):  # type: ignore[no-untyped-def]
    """gelu(SCALE x) / SCALE."""
    a = abs(x)
    a = _END if a > _END else a
    p = _polynomial(a, _P)
    p2 = p * p
    p4 = p2 * p2
    return (_ZERO if x < _ZERO else x) - a * (p4 * p4)


@njit(fastmath=_FLAGS)
def scaled_gelu_and_slope(x):  # type: ignore[no-untyped-def]
    """gelu(SCALE x) / SCALE and gelu'(SCALE x)."""
    a = abs(x)
    a = _END if a > _END else a
    p = _polynomial(a, _P)
    p2 = p * p
    p7 = p2 * p2 * p2 * p
    gelu = (_ZERO if x < _ZERO else x) - a * (p7 * p)
    return gelu, _HALF + math.copysign(_HALF - p7 * _polynomial(a, _W), x)
