"""affine -> GELU -> linear on the planes of many images, without a stored hidden layer.

With x [features] of a node, a [hidden, features], b [hidden], v [hidden, outputs] and
c [outputs],

    y = v^T gelu(a x + b) + c

Nodes lie along vector lanes. A tile of hidden units is worked on for a block of nodes in small
loops over buffers that stay in the first-level cache, each loop with few enough values for the
registers. The backward computes the hidden layer again.

The functions take scaled weights: a / SCALE, b / SCALE and v * SCALE / 2, `hidden` a multiple of
TILE. They work on the images [first, last) and may run in several threads for other images at
the same time: sums over nodes go to one float64 row for each piece of images, whose size does
not depend on the threads, so that neither do the bits of the result.

GELU, with the error function, needs neither a division nor an exponential. With Q both tails
(the error function's complement at |z| / sqrt(2)) and phi both densities of the normal
distribution,

    2 gelu(z) = z + |z| (1 - Q(|z|))
    2 gelu'(z) = 1 + sign(z) (1 - Q(|z|) + |z| phi(|z|))

Q's eighth root is nearly a polynomial of degree 8 in |z|, and phi's 16th root nearly one of
degree 4 in z^2; squaring brings them back. Everything is in units of SCALE, z = SCALE x, which
makes the tails' leading coefficient 1. The densities are taken times SCALE, so that x times them
is z phi(z). Beyond |z| = 6 both keep their values there, some 1e-9, which fp32 does not resolve
beside 1; and an infinity of either sign does not come out finite.

`tests/unit/kernels/derive_gelu.py` finds the coefficients.

(All in one file: numba's cache does not see a change of what a kernel calls in another.)
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import njit

TILE = 8  # hidden units
_NODES = 256  # of a block

SCALE = 6.491047121

# From the constant upwards.
TAILS = (
    *(-0.999999998, 0.647387536, 1.466931727, 0.201241906, -2.917557745),
    *(-0.412375229, 4.877731332, -3.920742623, 1.0),
)
DENSITIES = 1.108258012, -1.459203496, 0.960179622, -0.416262364, 0.115140554

_T = tuple(map(np.float32, TAILS))
_D = tuple(map(np.float32, DENSITIES))
_ZERO, _ONE, _END = np.float32(0), np.float32(1), np.float32(6 / SCALE)

# Without "nnan" and "ninf", and with comparisons that let NaN through. Inlined, since a call would
# find another copy, which may round otherwise, where its kernel comes from numba's cache.
_inlined = njit(fastmath={"contract"}, forceinline=True)


@_inlined
def _tails(size, square):  # type: ignore[no-untyped-def]
    """Q; by halves, since a chain of eight fused multiply-adds would be latency."""
    low = (_T[3] * size + _T[2]) * square + (_T[1] * size + _T[0])
    high = ((size + _T[7]) * size + _T[6]) * square + (_T[5] * size + _T[4])
    root = high * (square * square) + low
    for _ in range(3):
        root *= root
    return root


@_inlined
def _densities(square):  # type: ignore[no-untyped-def]
    root = (((_D[4] * square + _D[3]) * square + _D[2]) * square + _D[1]) * square + _D[0]
    for _ in range(4):
        root *= root
    return root


@_inlined
def scaled_gelu(x):  # type: ignore[no-untyped-def]
    """2 gelu(SCALE x) / SCALE."""
    size = abs(x)
    near = _END if size > _END else size
    return x + size * (_ONE - _tails(near, near * near))


@_inlined
def scaled_gelu_and_slope(x):  # type: ignore[no-untyped-def]
    """2 gelu(SCALE x) / SCALE and 2 gelu'(SCALE x)."""
    size = abs(x)
    near = _END if size > _END else size
    square = near * near
    middle = _ONE - _tails(near, square)
    return x + size * middle, _ONE + math.copysign(middle + near * _densities(square), x)


@cache
def forward_kernel(features: int, outputs: int) -> Callable[..., Any]:
    """The function (first, last, x, shift, a, b, v, c, y), for planes [images, features, nodes].

    shift [features] is taken off x first.
    """

    @njit(fastmath={"contract"}, nogil=True, cache=True)
    def forward(first, last, x, shift, a, b, v, c, y):  # type: ignore[no-untyped-def]
        nodes, hidden = x.shape[2], len(b)
        xs = np.zeros((features, _NODES), np.float32)
        hs = np.empty((TILE, _NODES), np.float32)
        ys = np.empty((outputs, _NODES), np.float32)
        for image in range(first, last):
            for start in range(0, nodes, _NODES):
                size = min(_NODES, nodes - start)
                for k in range(features):
                    xs[k, :size] = x[image, k, start : start + size] - shift[k]
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
def backward_kernel(features: int, inputs: int, outputs: int) -> Callable[..., Any]:
    """The function (first, last, x, shift, a, b, v, dy, dx, dw, piece).

    dx [images, inputs, nodes] is filled for the first `inputs` of the features. Of the weights'
    gradients the sums over nodes are added to row dw[image // piece] of [pieces, hidden,
    features + 1 + outputs], float64: those of a, of b, and of v.
    """
    width = features + 1

    @njit(fastmath={"contract", "reassoc"}, nogil=True, cache=True)
    def backward(first, last, x, shift, a, b, v, dy, dx, dw, piece):  # type: ignore[no-untyped-def]
        nodes, hidden = x.shape[2], len(b)
        xs = np.ones((width, _NODES), np.float32)  # the last, of ones, makes sums of products
        gs = np.zeros((outputs, _NODES), np.float32)  # 0 beyond a short block: adds nothing
        ds = np.empty((inputs, _NODES), np.float32)
        hs = np.empty((TILE, _NODES), np.float32)
        es = np.empty((TILE, _NODES), np.float32)
        for image in range(first, last):
            row = dw[image // piece]
            for start in range(0, nodes, _NODES):
                size = min(_NODES, nodes - start)
                for k in range(features):
                    xs[k, :size] = x[image, k, start : start + size] - shift[k]
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
                            for k in range(inputs):
                                low = a[j + u, k] * e0 + a[j + u + 1, k] * e1
                                ds[k, i] += low + (a[j + u + 2, k] * e2 + a[j + u + 3, k] * e3)
                    _add_products(row[j : j + TILE], es, xs)
                    _add_products(row[j : j + TILE, width:], hs, gs)
                dx[image, :, start : start + size] = ds[:, :size]

    return backward


@njit(fastmath={"contract", "reassoc"}, forceinline=True)
def _add_products(rows, units, planes):  # type: ignore[no-untyped-def]
    """Add to rows [units, planes] all products of units with planes, summed over the block.

    Three planes at a time: their sums with four units are as many as registers hold.
    """
    whole = len(planes) - len(planes) % 3
    for p in range(0, whole, 3):
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
    for p in range(whole, len(planes)):
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
