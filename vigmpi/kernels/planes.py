"""Compiled passes over planes [images, channels, nodes]: neighbour sums, moments, linear maps.

The nodes of an image are divided into bands: band b holds the nodes bands[b] to bands[b + 1] - 1.
Each kernel processes the bands [first, last), where band b of image i has the number
i * (len(bands) - 1) + b. Several threads may run it on disjoint ranges. float32 and float64 run the
same kernels.
"""

import numpy as np
from numba import njit

from vigmpi.kernels.compilation import kernel


@njit(fastmath={"contract"}, forceinline=True)
def _read_row(x, row, shift, above, below, values):  # type: ignore[no-untyped-def]
    """Write a row of x [nodes] less the shift to values [width].

    The rows beyond x are `above` and `below`; zeros replace those that have no width.
    """
    width = len(values)
    if row < 0:
        source = above
    elif row < len(x) // width:
        source = x[row * width : (row + 1) * width]
    else:
        source = below
    if len(source) == 0:
        values[:] = 0
    else:
        for j in range(width):
            values[j] = source[j] - shift


@njit(fastmath={"contract"}, forceinline=True)
def _add_neighbour_sum(x, rows, width, shift, above, below, buffers, y):  # type: ignore[no-untyped-def]
    """Add to y [nodes of the rows] the sum of x - shift over each pixel's up to 8 neighbours.

    Args:
        rows: the first row and the end.
        buffers: memory, [5, width + 2].
    """
    up, here, down = buffers[0, :width], buffers[1, :width], buffers[2, :width]
    own = buffers[3, :width]  # sum of a pixel's neighbours above and below
    columns = buffers[4]  # sums of three rows; 0 outside the image
    columns[0] = columns[width + 1] = 0
    _read_row(x, rows[0] - 1, shift, above, below, up)
    _read_row(x, rows[0], shift, above, below, here)
    for i in range(rows[0], rows[1]):
        _read_row(x, i + 1, shift, above, below, down)
        for j in range(width):
            own[j] = up[j] + down[j]
            columns[j + 1] = own[j] + here[j]
        target = y[(i - rows[0]) * width : (i + 1 - rows[0]) * width]
        for j in range(width):
            target[j] += own[j] + (columns[j] + columns[j + 2])
        up, here, down = here, down, up


@kernel()
def neighbour_sum(first, last, bands, x, shift, degree, width, above, below, origin, y):  # type: ignore[no-untyped-def]
    """Write neighbour sums of x - shift, x - shift itself and the degree to y.

    Args:
        origin: first node of y, a multiple of the width.
        above, below: rows beyond those of x, [images, channels, width], or of no width at the edge
            of the image.
    """
    channels, count = x.shape[1], len(bands) - 1
    buffers = np.empty((5, width + 2), x.dtype)
    for number in range(first, last):
        image, band = number // count, number % count
        begin, end = bands[band], bands[band + 1]
        rows = begin // width, end // width
        for c in range(channels):
            source = x[image, c, begin:end]
            total = y[image, c, begin - origin : end - origin]
            own = y[image, channels + c, begin - origin : end - origin]
            for i in range(len(own)):
                own[i] = source[i] - shift[c]
            total[:] = 0
            outside = above[image, c], below[image, c]
            _add_neighbour_sum(x[image, c], rows, width, shift[c], *outside, buffers, total)
        y[image, 2 * channels, begin - origin : end - origin] = degree[begin:end]


@kernel()
def add_neighbour_sum_adjoint(first, last, bands, dsums, width, above, below, dx):  # type: ignore[no-untyped-def]
    """Add to dx the gradient through the neighbour sums, given that of the sums.

    Args:
        above, below: rows of the gradient beyond those of dsums, as in `neighbour_sum`.
    """
    channels, count = dx.shape[1], len(bands) - 1
    buffers = np.empty((5, width + 2), dx.dtype)
    for number in range(first, last):
        image, band = number // count, number % count
        begin, end = bands[band], bands[band + 1]
        rows = begin // width, end // width
        for c in range(channels):
            outside, target = (above[image, c], below[image, c]), dx[image, c, begin:end]
            _add_neighbour_sum(dsums[image, c], rows, width, 0, *outside, buffers, target)


@kernel(reassoc=True)
def sums(first, last, bands, x, s):  # type: ignore[no-untyped-def]
    """Write the sums of x_c over the nodes of each band to s [images, bands, channels], float64."""
    count = len(bands) - 1
    for number in range(first, last):
        image, band = number // count, number % count
        for c in range(x.shape[1]):
            total, p = 0.0, x[image, c, bands[band] : bands[band + 1]]
            for i in range(len(p)):
                total += p[i]
            s[image, band, c] = total


@kernel(reassoc=True)
def products(first, last, bands, x, shift, s):  # type: ignore[no-untyped-def]
    """Write the sums of (x_c - shift_c) (x_d - shift_d) over the nodes of each band.

    Args:
        shift: shift of each band, [bands, channels].
        s: the sums, [images, bands, channels, channels], float64.
    """
    count = len(bands) - 1
    for number in range(first, last):
        image, band = number // count, number % count
        begin, end = bands[band], bands[band + 1]
        for c in range(x.shape[1]):
            p, p_shift = x[image, c, begin:end], shift[band, c]
            for d in range(c + 1):
                total, q, q_shift = 0.0, x[image, d, begin:end], shift[band, d]
                for i in range(len(p)):
                    total += np.float64(p[i] - p_shift) * (q[i] - q_shift)
                s[image, band, c, d] = s[image, band, d, c] = total


@kernel()
def add_linear_map(first, last, bands, x, shift, weights, bias, z, y):  # type: ignore[no-untyped-def]
    """Add z_c + bias_c + sum over d of weights_cd (x_d - shift_d) to y_c."""
    channels, count = x.shape[1], len(bands) - 1
    for number in range(first, last):
        image, begin, end = number // count, bands[number % count], bands[number % count + 1]
        for c in range(channels):
            target, addend = y[image, c, begin:end], z[image, c, begin:end]
            for i in range(len(target)):
                target[i] += addend[i] + bias[c]
            for d in range(channels):
                weight, offset, source = weights[c, d], shift[d], x[image, d, begin:end]
                for i in range(len(target)):
                    target[i] += weight * (source[i] - offset)


@kernel(reassoc=True)
def dots(first, last, bands, x, y, shift, s):  # type: ignore[no-untyped-def]
    """Write the sums of x_c (y_c - shift_c) to s [images, bands, channels], float64."""
    count = len(bands) - 1
    for number in range(first, last):
        image, band = number // count, number % count
        for c in range(x.shape[1]):
            total, offset = 0.0, shift[c]
            p = x[image, c, bands[band] : bands[band + 1]]
            q = y[image, c, bands[band] : bands[band + 1]]
            for i in range(len(p)):
                total += np.float64(p[i]) * (q[i] - offset)
            s[image, band, c] = total


@kernel()
def blend(first, last, bands, x, y, shift, p, q, constant, out):  # type: ignore[no-untyped-def]
    """Write p_c x_c + q_c (y_c - shift_c) + constant_c to out_c."""
    count = len(bands) - 1
    for number in range(first, last):
        image, begin, end = number // count, bands[number % count], bands[number % count + 1]
        for c in range(x.shape[1]):
            u, v, target = x[image, c, begin:end], y[image, c, begin:end], out[image, c, begin:end]
            for i in range(len(target)):
                target[i] = p[c] * u[i] + (q[c] * (v[i] - shift[c]) + constant[c])
