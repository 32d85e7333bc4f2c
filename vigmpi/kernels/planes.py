"""Compiled passes over planes [images, channels, nodes]: neighbour sums, moments, linear maps.

Each kernel processes the images [first, last). Several threads may run it on disjoint ranges.
"""

import numpy as np
from numba import njit

from vigmpi.kernels.compilation import kernel


@njit(fastmath={"contract"}, forceinline=True)
def _add_neighbour_sum(x, height, width, y):  # type: ignore[no-untyped-def]
    """Add to y [nodes] the sum of x [nodes] over each pixel's up to 8 neighbours."""
    own = np.empty(width, np.float32)  # sum of a pixel's neighbours above and below
    columns = np.zeros(width + 2, np.float32)  # sums of three rows; 0 outside the image
    for i in range(height):
        row = i * width
        for j in range(width):
            above = x[row - width + j] if i > 0 else np.float32(0)
            below = x[row + width + j] if i < height - 1 else np.float32(0)
            own[j] = above + below
            columns[j + 1] = own[j] + x[row + j]
        for j in range(width):
            y[row + j] += own[j] + (columns[j] + columns[j + 2])


@kernel()
def neighbour_sum(first, last, x, shift, degree, height, width, y):  # type: ignore[no-untyped-def]
    """Write neighbour sums of x - shift, x - shift itself and the degree to y."""
    channels = x.shape[1]
    for image in range(first, last):
        for c in range(channels):
            y[image, channels + c] = x[image, c] - shift[c]
            y[image, c] = np.float32(0)
            _add_neighbour_sum(y[image, channels + c], height, width, y[image, c])
        y[image, 2 * channels] = degree


@kernel()
def neighbour_sum_adjoint(first, last, dy, height, width, dx):  # type: ignore[no-untyped-def]
    """Write the gradient of x to dx, given the gradient dy [images, 2 channels, nodes]."""
    channels = dx.shape[1]
    for image in range(first, last):
        for c in range(channels):
            dx[image, c] = dy[image, channels + c]
            _add_neighbour_sum(dy[image, c], height, width, dx[image, c])


@kernel(reassoc=True)
def sums(first, last, x, s):  # type: ignore[no-untyped-def]
    """Write the sums of x_c over the nodes of each image to s [images, channels], float64."""
    for image in range(first, last):
        for c in range(x.shape[1]):
            total = 0.0
            for i in range(x.shape[2]):
                total += x[image, c, i]
            s[image, c] = total


@kernel(reassoc=True)
def products(first, last, x, shift, s):  # type: ignore[no-untyped-def]
    """Write the sums of (x_c - shift_c) (x_d - shift_d) to s [images, channels, channels]."""
    for image in range(first, last):
        for c in range(x.shape[1]):
            for d in range(c + 1):
                total = 0.0
                for i in range(x.shape[2]):
                    total += np.float64(x[image, c, i] - shift[c]) * (x[image, d, i] - shift[d])
                s[image, c, d] = s[image, d, c] = total


@kernel()
def add_linear_map(first, last, x, shift, weights, bias, z, y):  # type: ignore[no-untyped-def]
    """Add z_c + bias_c + sum over d of weights_cd (x_d - shift_d) to y_c."""
    channels = x.shape[1]
    for image in range(first, last):
        for c in range(channels):
            for i in range(x.shape[2]):
                y[image, c, i] += z[image, c, i] + bias[c]
            for d in range(channels):
                weight, offset = weights[c, d], shift[d]
                for i in range(x.shape[2]):
                    y[image, c, i] += weight * (x[image, d, i] - offset)


@kernel(reassoc=True)
def dots(first, last, x, y, shift, s):  # type: ignore[no-untyped-def]
    """Write the sums of x_c (y_c - shift_c) to s [images, channels], float64."""
    for image in range(first, last):
        for c in range(x.shape[1]):
            total = 0.0
            for i in range(x.shape[2]):
                total += np.float64(x[image, c, i]) * (y[image, c, i] - shift[c])
            s[image, c] = total


@kernel()
def blend(first, last, x, y, shift, p, q, constant, out):  # type: ignore[no-untyped-def]
    """Write p_c x_c + q_c (y_c - shift_c) + constant_c to out_c."""
    for image in range(first, last):
        for c in range(x.shape[1]):
            for i in range(x.shape[2]):
                deviation = y[image, c, i] - shift[c]
                out[image, c, i] = p[c] * x[image, c, i] + (q[c] * deviation + constant[c])
