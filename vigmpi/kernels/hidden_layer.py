"""affine -> GELU -> linear on the planes of many images, without a stored hidden layer.

With x [features] of a node, a [hidden, features], b [hidden], v [hidden, outputs] and
c [outputs],

    y = v^T gelu(a x + b) + c

Nodes lie along vector lanes. A tile of hidden units is worked on for a block of nodes in small
loops over buffers that stay in the first-level cache, each loop with few enough values for the
registers. The backward computes the hidden layer again.

The functions take scaled weights: a / SCALE, b / SCALE and v * SCALE, `hidden` a multiple of
TILE. They work on the images [first, last) and may run in several threads for other images at
the same time: sums over nodes go to one float64 row for each piece of images, whose size does
not depend on the threads, so that neither do the bits of the result.

GELU, with the error function, needs neither a division nor an exponential. With Q the upper tail
and phi the density of the normal distribution,

    gelu(z) = max(z, 0) - |z| Q(|z|)
    gelu'(z) = 1/2 + sign(z) (1/2 - Q(|z|) + |z| phi(|z|))

Minus Q's eighth root is nearly a polynomial p of degree 8 in |z|, and Q - |z| phi nearly p^7
times another, w. Everything is in units of SCALE, z = SCALE x, which makes p's leading
coefficient 1. Beyond |z| = 6 the tails keep their values there, 1e-9 and 4e-8: gelu is then off
by 1e-9 |z|, which fp32 does not resolve, and an infinity of either sign does not come out finite.

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

SCALE = 6.548028355

# From the constant upwards, in powers of |x|.
P = (
    *(-0.917004008, 0.598865747, 1.368969777, 0.188656887, -2.765634899),
    *(-0.412837342, 4.749789942, -3.860539587, 1.0),
)
W = (
    *(-0.917004246, 5.389828395, 23.271048224, 4.740122964, -91.463607918),
    *(-16.027067664, 230.489047988, -217.155369202, 63.510986694),
)

_P = tuple(map(np.float32, P))
_W = tuple(map(np.float32, W))
_ZERO, _HALF, _END = np.float32(0), np.float32(0.5), np.float32(6 / SCALE)

# Without "nnan" and "ninf", and with comparisons that let NaN through.
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
    size = abs(x)
    p = _polynomial(_END if size > _END else size, _P)
    p2 = p * p
    p4 = p2 * p2
    return (_ZERO if x < _ZERO else x) - size * (p4 * p4)


@njit(fastmath=_FLAGS)
def scaled_gelu_and_slope(x):  # type: ignore[no-untyped-def]
    """gelu(SCALE x) / SCALE and gelu'(SCALE x)."""
    size = abs(x)
    near = _END if size > _END else size
    p = _polynomial(near, _P)
    p2 = p * p
    p7 = p2 * p2 * p2 * p
    gelu = (_ZERO if x < _ZERO else x) - size * (p7 * p)
    return gelu, _HALF + math.copysign(_HALF - p7 * _polynomial(near, _W), x)


@cache
def forward_kernel(features: int, outputs: int) -> Callable[..., Any]:
    """The function (first, last, x, a, b, v, c, y), for planes x [images, features, nodes]."""

    @njit(fastmath={"contract"}, nogil=True, cache=True)
    def forward(first, last, x, a, b, v, c, y):  # type: ignore[no-untyped-def]
        nodes, hidden = x.shape[2], len(b)
        xs = np.zeros((features, _NODES), np.float32)
        hs = np.empty((TILE, _NODES), np.float32)
        ys = np.empty((outputs, _NODES), np.float32)
        for image in range(first, last):
            for start in range(0, nodes, _NODES):
                size = min(_NODES, nodes - start)
                xs[:, :size] = x[image, :, start : start + size]
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
                    for u in range(TILE):
                        for i in range(_NODES):
                            hs[u, i] = scaled_gelu(hs[u, i])
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
    """The function (first, last, x, a, b, v, dy, dx, dw, piece).

    dx [images, inputs, nodes] is filled for the first `inputs` of the features. Of the weights'
    gradients the sums over nodes are added to row dw[image // piece] of [pieces, hidden,
    features + 1 + outputs], float64: those of a, of b, and of v.
    """

    @njit(fastmath={"contract", "reassoc"}, nogil=True, cache=True)
    def backward(first, last, x, a, b, v, dy, dx, dw, piece):  # type: ignore[no-untyped-def]
        nodes, hidden = x.shape[2], len(b)
        xs = np.zeros((features, _NODES), np.float32)
        gs = np.zeros((outputs, _NODES), np.float32)  # 0 beyond a short block: adds nothing
        ds = np.empty((inputs, _NODES), np.float32)
        hs = np.empty((TILE, _NODES), np.float32)
        es = np.empty((TILE, _NODES), np.float32)
        for image in range(first, last):
            row = dw[image // piece]
            for start in range(0, nodes, _NODES):
                size = min(_NODES, nodes - start)
                xs[:, :size] = x[image, :, start : start + size]
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
                    for u in range(TILE):
                        for i in range(_NODES):
                            hs[u, i], slope = scaled_gelu_and_slope(hs[u, i])
                            es[u, i] *= slope
                    for u in range(0, TILE, 4):
                        for i in range(_NODES):
                            e0, e1, e2, e3 = es[u, i], es[u + 1, i], es[u + 2, i], es[u + 3, i]
                            for k in range(inputs):
                                low = a[j + u, k] * e0 + a[j + u + 1, k] * e1
                                ds[k, i] += low + (a[j + u + 2, k] * e2 + a[j + u + 3, k] * e3)
                    for k in range(features):
                        _add_products(row, j, k, es, xs[k])
                    _add_sums(row, j, features, es)
                    for o in range(outputs):
                        _add_products(row, j, features + 1 + o, hs, gs[o])
                dx[image, :, start : start + size] = ds[:, :size]

    return backward


@njit(fastmath={"contract", "reassoc"})
def _add_products(row, j, column, units, plane):  # type: ignore[no-untyped-def]
    """Add each unit's product with a plane, summed over the block, to its row."""
    for u in range(0, TILE, 4):
        s0 = s1 = s2 = s3 = _ZERO
        for i in range(_NODES):
            s0 += units[u, i] * plane[i]
            s1 += units[u + 1, i] * plane[i]
            s2 += units[u + 2, i] * plane[i]
            s3 += units[u + 3, i] * plane[i]
        row[j + u, column] += s0
        row[j + u + 1, column] += s1
        row[j + u + 2, column] += s2
        row[j + u + 3, column] += s3


@njit(fastmath={"contract", "reassoc"})
def _add_sums(row, j, column, units):  # type: ignore[no-untyped-def]
    """Add each unit, summed over the block, to its row."""
    for u in range(TILE):
        s = _ZERO
        for i in range(_NODES):
            s += units[u, i]
        row[j + u, column] += s
