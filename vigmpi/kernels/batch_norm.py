"""Compiled passes of a batch norm with an activation over features [images, nodes, channels].

With the deviation d = z - shift, where the shift is the rounded mean, the passes compute

    u = scale d + offset,    y = activation(u)  or  y = residual + factor u

and, from the gradient g of y, the gradient du = g activation'(u) or du = factor g and the sums of
du and of du d over the nodes. README.md derives how these give the gradients of z and the weights.

Vector lanes hold channels. Each kernel processes the images [first, last), and several threads may
run it on disjoint ranges; an image's results do not depend on the others. Sums are float64. Arrays
of features may hold bfloat16 as uint16 (`bfloat16`). float64 uses the error function itself.

A loop has few arrays: LLVM vectorises none that needs many checks for overlapping memory.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from vigmpi.kernels.bfloat16 import narrow, widen
from vigmpi.kernels.compilation import kernel
from vigmpi.kernels.fused_gelu import SCALE, scaled_gelu, scaled_gelu_and_slope

# numba's cache does not see changes in fused_gelu.py and bfloat16.py: remove it after any.
_UNSCALE, _HALF = np.float32(1 / SCALE), np.float32(0.5)
_HALF_SCALE = np.float32(SCALE / 2)
_PARTIAL = 16  # nodes whose sum is not yet float64


def _gelu(u):  # type: ignore[no-untyped-def]
    raise NotImplementedError


@overload(_gelu, inline="always")
def _typed_gelu(u):  # type: ignore[no-untyped-def]
    if u == types.float64:
        return lambda u: 0.5 * u * math.erfc(-u * math.sqrt(0.5))
    return lambda u: _HALF_SCALE * scaled_gelu(u * _UNSCALE)


def _gelu_slope(u):  # type: ignore[no-untyped-def]
    raise NotImplementedError


@overload(_gelu_slope, inline="always")
def _typed_gelu_slope(u):  # type: ignore[no-untyped-def]
    if u == types.float64:

        def slope(u):  # type: ignore[no-untyped-def]
            density = math.exp(-0.5 * u * u) / math.sqrt(2 * math.pi)
            return 0.5 * math.erfc(-u * math.sqrt(0.5)) + u * density

        return slope
    return lambda u: _HALF * scaled_gelu_and_slope(u * _UNSCALE)[1]


@kernel()
def sums(first, last, z, shift, s):  # type: ignore[no-untyped-def]
    """Write the sums of d and of d^2 over the nodes of each image to s [images, 2, channels]."""
    total, squares = np.empty_like(shift), np.empty_like(shift)
    for image in range(first, last):
        s[image] = 0.0
        for start in range(0, z.shape[1], _PARTIAL):
            total[:] = 0
            squares[:] = 0
            for node in range(start, min(start + _PARTIAL, z.shape[1])):
                row = z[image, node]
                for c in range(len(shift)):
                    deviation = widen(row[c]) - shift[c]
                    total[c] += deviation
                    squares[c] += deviation * deviation
            s[image, 0] += total
            s[image, 1] += squares


@cache
def normalise_kernel(activation: str) -> Callable[..., Any]:
    """Return the compiled function (first, last, z, shift, scale, offset, y)."""
    relu, gelu = activation == "relu", activation == "gelu"

    @kernel()
    def normalise(first, last, z, shift, scale, offset, y):  # type: ignore[no-untyped-def]
        zero = shift.dtype.type(0)
        for image in range(first, last):
            for node in range(z.shape[1]):
                row, target = z[image, node], y[image, node]
                for c in range(len(shift)):
                    u = scale[c] * (widen(row[c]) - shift[c]) + offset[c]
                    if gelu:
                        u = _gelu(u)
                    if relu:
                        u = zero if u < zero else u
                    target[c] = narrow(u, y)

    return normalise


@kernel()
def add_normalised(first, last, z, shift, scale, offset, residual, factor, y):  # type: ignore[no-untyped-def]
    """Write residual + factor u to y, with a factor per image."""
    for image in range(first, last):
        f = factor[image]
        for node in range(z.shape[1]):
            row, own, target = z[image, node], residual[image, node], y[image, node]
            for c in range(len(shift)):
                u = scale[c] * (widen(row[c]) - shift[c]) + offset[c]
                target[c] = narrow(widen(own[c]) + f * u, y)


@cache
def activation_adjoint_kernel(activation: str) -> Callable[..., Any]:
    """Return the compiled function (first, last, z, shift, scale, offset, g, du) of du."""
    gelu = activation == "gelu"

    @kernel()
    def adjoint(first, last, z, shift, scale, offset, g, du):  # type: ignore[no-untyped-def]
        zero = shift.dtype.type(0)
        for image in range(first, last):
            for node in range(z.shape[1]):
                row, gradient, target = z[image, node], g[image, node], du[image, node]
                for c in range(len(shift)):
                    u = scale[c] * (widen(row[c]) - shift[c]) + offset[c]
                    value = widen(gradient[c])
                    if gelu:
                        value *= _gelu_slope(u)
                    else:
                        value = value if u > zero else zero
                    target[c] = narrow(value, du)

    return adjoint


@kernel()
def dots(first, last, du, z, shift, s):  # type: ignore[no-untyped-def]
    """Write the sums of du and of du d over the nodes of each image to s [images, 2, channels]."""
    total, products = np.empty_like(shift), np.empty_like(shift)
    for image in range(first, last):
        s[image] = 0.0
        for start in range(0, z.shape[1], _PARTIAL):
            total[:] = 0
            products[:] = 0
            for node in range(start, min(start + _PARTIAL, z.shape[1])):
                row, gradient = z[image, node], du[image, node]
                for c in range(len(shift)):
                    value = widen(gradient[c])
                    total[c] += value
                    products[c] += value * (widen(row[c]) - shift[c])
            s[image, 0] += total
            s[image, 1] += products


@kernel()
def blend(first, last, du, z, shift, p, q, r, factor, dz):  # type: ignore[no-untyped-def]
    """Write factor p du + q d + r to dz, with a factor per image."""
    for image in range(first, last):
        f = factor[image]
        for node in range(z.shape[1]):
            row, gradient, target = z[image, node], du[image, node], dz[image, node]
            for c in range(len(shift)):
                deviation = widen(row[c]) - shift[c]
                target[c] = narrow(f * p[c] * widen(gradient[c]) + (q[c] * deviation + r[c]), dz)
