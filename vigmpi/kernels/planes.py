"""Passes over node features as planes [images, channels, nodes]: neighbours, moments.

Like those of `hidden_layer`, the kernels work on the images [first, last), in any thread.
"""

import numpy as np
from numba import njit


@njit(fastmath={"contract"}, forceinline=True)
def _neighbour_sum(x, height, width, y):  # type: ignore[no-untyped-def]
    """Add to y [nodes] the sum of x [nodes] over each pixel's up to 8 neighbours."""
    own = np.empty(width, np.float32)  # the neighbours in a pixel's own column
    columns = np.zeros(width + 2, np.float32)  # whole columns of three; 0 beside the image
    for i in range(height):
        row = i * width
        for j in range(width):
            above = x[row - width + j] if i > 0 else np.float32(0)
            below = x[row + width + j] if i < height - 1 else np.float32(0)
            own[j] = above + below
            columns[j + 1] = own[j] + x[row + j]
        for j in range(width):
            y[row + j] += own[j] + (columns[j] + columns[j + 2])


@njit(fastmath={"contract"}, nogil=True, cache=True)
def gather_features(first, last, x, shift, degree, height, width, y):  # type: ignore[no-untyped-def]
    """Write into y [images, 2 channels + 1, nodes]: neighbour sums of x - shift, itself, degree."""
    channels = x.shape[1]
    for image in range(first, last):
        for c in range(channels):
            y[image, channels + c] = x[image, c] - shift[c]
            y[image, c] = np.float32(0)
            _neighbour_sum(y[image, channels + c], height, width, y[image, c])
        y[image, 2 * channels] = degree


@njit(fastmath={"contract"}, nogil=True, cache=True)
def gather_features_adjoint(first, last, dy, height, width, dx):  # type: ignore[no-untyped-def]
    """Write into dx what dy [images, 2 channels, nodes] is for x."""
    channels = dx.shape[1]
    for image in range(first, last):
        for c in range(channels):
            dx[image, c] = dy[image, channels + c]
            _neighbour_sum(dy[image, c], height, width, dx[image, c])


@njit(fastmath={"contract", "reassoc"}, nogil=True, cache=True)
def sums(first, last, x, s):  # type: ignore[no-untyped-def]
    """Write every image's sums over its nodes into s [images, channels], float64."""
    for image in range(first, last):
        for c in range(x.shape[1]):
            total = 0.0
            for i in range(x.shape[2]):
                total += x[image, c, i]
            s[image, c] = total


@njit(fastmath={"contract", "reassoc"}, nogil=True, cache=True)
def products(first, last, x, shift, s):  # type: ignore[no-untyped-def]
    """Write the sums of (x_c - shift_c) (x_d - shift_d) into s [images, channels, channels]."""
    for image in range(first, last):
        for c in range(x.shape[1]):
            for d in range(c + 1):
                total = 0.0
                for i in range(x.shape[2]):
                    total += np.float64(x[image, c, i] - shift[c]) * (x[image, d, i] - shift[d])
                s[image, c, d] = s[image, d, c] = total


@njit(fastmath={"contract"}, nogil=True, cache=True)
def add_linear_map(first, last, x, shift, weights, bias, z, y):  # type: ignore[no-untyped-def]
    """Add z_c + bias_c + sum over d of weights_cd (x_d - shift_d) to y, like x."""
    channels = x.shape[1]
    for image in range(first, last):
        for c in range(channels):
            for i in range(x.shape[2]):
                y[image, c, i] += z[image, c, i] + bias[c]
            for d in range(channels):
                weight, offset = weights[c, d], shift[d]
                for i in range(x.shape[2]):
                    y[image, c, i] += weight * (x[image, d, i] - offset)


@njit(fastmath={"contract", "reassoc"}, nogil=True, cache=True)
def dots(first, last, x, y, shift, s):  # type: ignore[no-untyped-def]
    """Write the sums of x_c (y_c - shift_c) into s [images, channels], float64."""
    for image in range(first, last):
        for c in range(x.shape[1]):
            total = 0.0
            for i in range(x.shape[2]):
                total += np.float64(x[image, c, i]) * (y[image, c, i] - shift[c])
            s[image, c] = total


@njit(fastmath={"contract"}, nogil=True, cache=True)
def blend(first, last, x, y, shift, p, q, constant, out):  # type: ignore[no-untyped-def]
    """Write p_c x_c + q_c (y_c - shift_c) + constant_c into out, like x and y."""
    for image in range(first, last):
        for c in range(x.shape[1]):
            for i in range(x.shape[2]):
                deviation = y[image, c, i] - shift[c]
                out[image, c, i] = p[c] * x[image, c, i] + (q[c] * deviation + constant[c])
