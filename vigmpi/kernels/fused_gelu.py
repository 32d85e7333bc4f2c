"""Compiled kernels for affine -> GELU -> linear on planes, without a stored hidden layer.

With a node's features x [features], a [hidden, features], b [hidden], v [hidden, outputs] and
c [outputs],

    y = v^T gelu(a x + b) + c

Vector lanes hold nodes. A tile of hidden units is processed for a block of nodes in small loops
over buffers that stay in the first-level cache; each loop keeps its values in registers. The
backward kernel recomputes the hidden layer.

The kernels take scaled weights: a / SCALE, b / SCALE and v * SCALE / 2, with `hidden` a multiple
of TILE. They process the bands [first, last), numbered as in planes.py, and several threads may run
them on disjoint ranges. Sums over nodes go to one float64 row per band and group of images, whose
sizes do not depend on the number of threads; neither do the bits of the result.

GELU needs no division and no exponential. With Q(t) = erfc(t / sqrt(2)), the probability of both
tails of the normal distribution, and phi twice its density,

    2 gelu(z) = z + |z| (1 - Q(|z|))
    2 gelu'(z) = 1 + sign(z) (1 - Q(|z|) + |z| phi(|z|))

Q is computed as the eighth power of a polynomial in |z|, and phi as the 16th power of one in z^2.
Beyond |z| = 6 both stay at 2e-9 and 1.5e-8. On [-12, 12], gelu is accurate to 4e-7, gelu' to 9e-7.
README.md derives the formulas, `tests/unit/kernels/derive_gelu.py` the coefficients.

Everything is in one file because numba's cache does not detect changes in other files.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import njit

from vigmpi.kernels.compilation import kernel

TILE = 8  # hidden units
_NODES = 256  # nodes in a block

SCALE = 6.491047121

# In ascending order of powers.
TAILS = (
    *(-0.999999998, 0.647387536, 1.466931727, 0.201241906, -2.917557745),
    *(-0.412375229, 4.877731332, -3.920742623, 1.0),
)
DENSITIES = 1.108258012, -1.459203496, 0.960179622, -0.416262364, 0.115140554

_T = tuple(map(np.float32, TAILS))
_D = tuple(map(np.float32, DENSITIES))
_ZERO, _ONE, _END = np.float32(0), np.float32(1), np.float32(6 / SCALE)

# Without the flags "nnan" and "ninf", and with comparisons that propagate NaN. Inlined, because a
# kernel from numba's cache would call another copy, which may round differently.
_inlined = njit(fastmath={"contract"}, forceinline=True)


@_inlined
def _tails(magnitude, square):  # type: ignore[no-untyped-def]
    """Return Q; two halves, since a chain of eight fused multiply-adds would be latency-bound."""
    low = (_T[3] * magnitude + _T[2]) * square + (_T[1] * magnitude + _T[0])
    high = ((magnitude + _T[7]) * magnitude + _T[6]) * square + (_T[5] * magnitude + _T[4])
    root = high * (square * square) + low
    for _ in range(3):
        root *= root
    return root


@_inlined
def _densities(square):  # type: ignore[no-untyped-def]
    """Return SCALE phi."""
    root = (((_D[4] * square + _D[3]) * square + _D[2]) * square + _D[1]) * square + _D[0]
    for _ in range(4):
        root *= root
    return root


@_inlined
def scaled_gelu(x):  # type: ignore[no-untyped-def]
    """Return 2 gelu(SCALE x) / SCALE."""
    magnitude = abs(x)
    clipped = _END if magnitude > _END else magnitude
    return x + magnitude * (_ONE - _tails(clipped, clipped * clipped))


@_inlined
def scaled_gelu_and_slope(x):  # type: ignore[no-untyped-def]
    """Return 2 gelu(SCALE x) / SCALE and 2 gelu'(SCALE x)."""
    magnitude = abs(x)
    clipped = _END if magnitude > _END else magnitude
    square = clipped * clipped
    erf = _ONE - _tails(clipped, square)
    return x + magnitude * erf, _ONE + math.copysign(erf + clipped * _densities(square), x)


@cache
def forward_kernel(features: int, outputs: int) -> Callable[..., Any]:
    """Return the compiled function (first, last, bands, x, origin, shift, a, b, v, c, y).

    It writes y [images, outputs, nodes], from x [images, features, nodes from the origin] less
    shift [features].
    """

    @kernel()
    def forward(first, last, bands, x, origin, shift, a, b, v, c, y):  # type: ignore[no-untyped-def]
        count, hidden = len(bands) - 1, len(b)
        xs = np.zeros((features, _NODES), np.float32)
        hs = np.empty((TILE, _NODES), np.float32)
        ys = np.empty((outputs, _NODES), np.float32)
        for number in range(first, last):
            image, band = number // count, number % count
            for start in range(bands[band], bands[band + 1], _NODES):
                size, at = min(_NODES, bands[band + 1] - start), start - origin
                for k in range(features):
                    xs[k, :size] = x[image, k, at : at + size] - shift[k]
                for o in range(outputs):
                    ys[o] = c[o]
                for j in range(0, hidden, TILE):
                    for u in range(0, TILE, 2):
                        for i in range(_NODES):
                            z0, z1 = b[j + u], b[j + u + 1]
                            for k in range(features):
                                z0 += a[j + u, k] * xs[k, i]
                                z1 += a[j + u + 1, k] * xs[k, i]
                            hs[u, i], hs[u + 1, i] = z0, z1
                    for u in range(0, TILE, 2):
                        for i in range(_NODES):
                            hs[u, i] = scaled_gelu(hs[u, i])
                            hs[u + 1, i] = scaled_gelu(hs[u + 1, i])
                    for o in range(outputs):
                        for i in range(_NODES):
                            s = v[j, o] * hs[0, i]
                            for u in range(1, TILE):
                                s += v[j + u, o] * hs[u, i]
                            ys[o, i] += s
                y[image, :, start : start + size] = ys[:, :size]

    return forward


@cache
def backward_kernel(features: int, sums: int, inputs: int, outputs: int) -> Callable[..., Any]:
    """Return the compiled function.

    Its arguments are (first, last, bands, x, origin, shift, a, b, v, dy, dsums, dx, dw, group), and
    its ranges count the bands of groups of `group` images. It writes the gradient of the first
    `sums` features to dsums and of the next `inputs` features to dx, both [images, ..., nodes]. It
    adds the gradients of a, b and v, in this order, to dw [groups, bands, hidden, features + 1 +
    outputs], float64.
    """
    width, taken = features + 1, sums + inputs

    @kernel(reassoc=True)
    def backward(  # type: ignore[no-untyped-def]
        first, last, bands, x, origin, shift, a, b, v, dy, dsums, dx, dw, group
    ):
        count, hidden = len(bands) - 1, len(b)
        xs = np.ones((width, _NODES), np.float32)  # the last plane, of ones, gives db
        gs = np.zeros((outputs, _NODES), np.float32)  # 0 beyond the end of a short block
        ds = np.empty((taken, _NODES), np.float32)
        hs = np.empty((TILE, _NODES), np.float32)
        es = np.empty((TILE, _NODES), np.float32)
        for number in range(first, last):
            row, band = dw[number // count, number % count], number % count
            first_image = number // count * group
            for image in range(first_image, min(first_image + group, len(x))):
                for start in range(bands[band], bands[band + 1], _NODES):
                    size, at = min(_NODES, bands[band + 1] - start), start - origin
                    for k in range(features):
                        xs[k, :size] = x[image, k, at : at + size] - shift[k]
                    gs[:, :size] = dy[image, :, start : start + size]
                    gs[:, size:] = _ZERO
                    ds[:] = _ZERO
                    for j in range(0, hidden, TILE):
                        for u in range(TILE):
                            for i in range(_NODES):
                                z = b[j + u]
                                for k in range(features):
                                    z += a[j + u, k] * xs[k, i]
                                hs[u, i] = z
                            for i in range(_NODES):
                                e = v[j + u, 0] * gs[0, i]
                                for o in range(1, outputs):
                                    e += v[j + u, o] * gs[o, i]
                                es[u, i] = e
                        for u in range(0, TILE, 2):
                            for i in range(_NODES):
                                hs[u, i], slope0 = scaled_gelu_and_slope(hs[u, i])
                                hs[u + 1, i], slope1 = scaled_gelu_and_slope(hs[u + 1, i])
                                es[u, i] *= slope0
                                es[u + 1, i] *= slope1
                        for u in range(0, TILE, 4):
                            for i in range(_NODES):
                                e0, e1, e2, e3 = es[u, i], es[u + 1, i], es[u + 2, i], es[u + 3, i]
                                for k in range(taken):
                                    low = a[j + u, k] * e0 + a[j + u + 1, k] * e1
                                    ds[k, i] += low + (a[j + u + 2, k] * e2 + a[j + u + 3, k] * e3)
                        _add_products(row[j : j + TILE], es, xs)
                        _add_products(row[j : j + TILE, width:], hs, gs)
                    dsums[image, :, start : start + size] = ds[:sums, :size]
                    dx[image, :, start : start + size] = ds[sums:, :size]

    return backward


@njit(fastmath={"contract", "reassoc"}, forceinline=True)
def _add_products(rows, units, planes):  # type: ignore[no-untyped-def]
    """Add all products of units with planes, summed over the block, to rows [units, planes].

    Three planes at a time: the registers hold the sums of three planes with four units.
    """
    triples_end = len(planes) - len(planes) % 3
    for p in range(0, triples_end, 3):
        x, y, z = planes[p], planes[p + 1], planes[p + 2]
        for u in range(0, TILE, 4):
            x0 = y0 = z0 = x1 = y1 = z1 = x2 = y2 = z2 = x3 = y3 = z3 = _ZERO
            for i in range(_NODES):
                e0, e1, e2, e3 = units[u, i], units[u + 1, i], units[u + 2, i], units[u + 3, i]
                x0, y0, z0 = x0 + e0 * x[i], y0 + e0 * y[i], z0 + e0 * z[i]
                x1, y1, z1 = x1 + e1 * x[i], y1 + e1 * y[i], z1 + e1 * z[i]
                x2, y2, z2 = x2 + e2 * x[i], y2 + e2 * y[i], z2 + e2 * z[i]
                x3, y3, z3 = x3 + e3 * x[i], y3 + e3 * y[i], z3 + e3 * z[i]
            for unit, sums in (
                (u, (x0, y0, z0)),
                (u + 1, (x1, y1, z1)),
                (u + 2, (x2, y2, z2)),
                (u + 3, (x3, y3, z3)),
            ):
                for c in range(3):
                    rows[unit, p + c] += sums[c]
    for p in range(triples_end, len(planes)):
        x = planes[p]
        for u in range(0, TILE, 4):
            x0 = x1 = x2 = x3 = _ZERO
            for i in range(_NODES):
                x0 += units[u, i] * x[i]
                x1 += units[u + 1, i] * x[i]
                x2 += units[u + 2, i] * x[i]
                x3 += units[u + 3, i] * x[i]
            for unit, total in ((u, x0), (u + 1, x1), (u + 2, x2), (u + 3, x3)):
                rows[unit, p] += total
