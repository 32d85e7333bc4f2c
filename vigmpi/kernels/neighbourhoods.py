"""Compiled maxima, sums and moments over the neighbours of every node, and their adjoints.

Features are [images, nodes or candidates, channels], and may hold bfloat16 as uint16 (`bfloat16`).
index [images, nodes, k] names the neighbours among an image's candidates. Vector lanes hold
channels. A channel's winner is the rank, 0 to k - 1 <= 255, of the first neighbour with the extreme
value; it takes the gradient. A value that is not a number wins only as the first neighbour.

numba's cache does not see changes in bfloat16.py: remove it after any.

Each kernel processes the images [first, last), and several threads may run it on disjoint ranges;
an image's results do not depend on the others.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import njit

from vigmpi.kernels.bfloat16 import narrow, widen
from vigmpi.kernels.compilation import kernel


@kernel()
def max_relative(first, last, x, y, index, out, winners):  # type: ignore[no-untyped-def]
    """Write x_c and max_j (y_jc - x_c), interleaved, to out [images, nodes, 2 channels].

    The maximum is that of y_jc less x_c: the same bits, because rounding is monotone.
    """
    channels = x.shape[2]
    best = np.empty(channels, y.dtype)
    for image in range(first, last):
        for node in range(x.shape[1]):
            best[:] = y[image, index[image, node, 0]]
            winner = winners[image, node]
            winner[:] = 0
            for rank in range(1, index.shape[2]):
                _replace_smaller(y[image, index[image, node, rank]], rank, best, winner)
            own, target = x[image, node], out[image, node]
            for c in range(channels):
                target[2 * c] = own[c]
                target[2 * c + 1] = narrow(widen(best[c]) - widen(own[c]), out)


@njit(fastmath={"contract"}, forceinline=True)
def _replace_smaller(row, rank, best, winner):  # type: ignore[no-untyped-def]
    number = np.uint8(rank)
    for c in range(len(best)):
        larger = widen(row[c]) > widen(best[c])
        best[c] = row[c] if larger else best[c]
        winner[c] = number if larger else winner[c]


@kernel()
def max_relative_adjoint(first, last, gradient, index, winners, dx, dy):  # type: ignore[no-untyped-def]
    """Write the gradients of x and y to dx and dy, given that of `max_relative`'s result."""
    channels = dx.shape[2]
    for image in range(first, last):
        dy[image] = 0
        for node in range(dx.shape[1]):
            row, own, ranks = gradient[image, node], dx[image, node], winners[image, node]
            for c in range(channels):
                own[c] = narrow(widen(row[2 * c]) - widen(row[2 * c + 1]), dx)
            for c in range(channels):
                winner = index[image, node, ranks[c]]
                dy[image, winner, c] += widen(row[2 * c + 1])


@cache
def extreme_kernel(sign: int) -> Callable[..., Any]:
    """Return the compiled function (first, last, y, index, out, winners).

    It writes the largest (sign 1) or smallest (sign -1) values of the neighbours to out
    [images, nodes, channels].
    """
    largest = sign > 0

    @kernel()
    def extreme(first, last, y, index, out, winners):  # type: ignore[no-untyped-def]
        for image in range(first, last):
            for node in range(index.shape[1]):
                best, winner = out[image, node], winners[image, node]
                best[:] = y[image, index[image, node, 0]]
                winner[:] = 0
                for rank in range(1, index.shape[2]):
                    row = y[image, index[image, node, rank]]
                    number = np.uint8(rank)
                    for c in range(len(best)):
                        value, other = widen(row[c]), widen(best[c])
                        better = value > other if largest else value < other
                        best[c] = row[c] if better else best[c]
                        winner[c] = number if better else winner[c]

    return extreme


@kernel()
def extreme_adjoint(first, last, gradient, index, winners, dy):  # type: ignore[no-untyped-def]
    """Write the gradient of y to dy, given that of the extreme values."""
    for image in range(first, last):
        dy[image] = 0
        for node in range(index.shape[1]):
            row, ranks = gradient[image, node], winners[image, node]
            for c in range(len(row)):
                dy[image, index[image, node, ranks[c]], c] += widen(row[c])


@kernel()
def neighbour_sum(first, last, y, index, out):  # type: ignore[no-untyped-def]
    """Write the sums of the neighbours' values to out [images, nodes, channels]."""
    total = np.empty(y.shape[2], out.dtype)
    for image in range(first, last):
        for node in range(index.shape[1]):
            total[:] = 0
            for rank in range(index.shape[2]):
                row = y[image, index[image, node, rank]]
                for c in range(len(total)):
                    total[c] += widen(row[c])
            out[image, node] = total


@kernel()
def neighbour_sum_adjoint(first, last, gradient, index, dy):  # type: ignore[no-untyped-def]
    """Write the gradient of y to dy, given that of the sums."""
    for image in range(first, last):
        dy[image] = 0
        for node in range(index.shape[1]):
            row = gradient[image, node]
            for rank in range(index.shape[2]):
                target = dy[image, index[image, node, rank]]
                for c in range(len(row)):
                    target[c] += widen(row[c])


@kernel()
def edge_sums(first, last, p, q, index, shift, s):  # type: ignore[no-untyped-def]
    """Write the sums of t = p_j - q_i - shift and of t^2 over all edges of each image to s.

    Args:
        p, q: maps of the candidates and of the nodes.
        s: [images, 2, channels], float64.
    """
    for image in range(first, last):
        total, squares = s[image]
        total[:] = 0.0
        squares[:] = 0.0
        for node in range(index.shape[1]):
            own = q[image, node]
            for rank in range(index.shape[2]):
                row = p[image, index[image, node, rank]]
                for c in range(len(shift)):
                    t = np.float64(widen(row[c]) - widen(own[c]) - shift[c])
                    total[c] += t
                    squares[c] += t * t


@kernel()
def edge_sums_adjoint(first, last, p, q, index, shift, a, b, dp, dq):  # type: ignore[no-untyped-def]
    """Write the gradients of p and q, given those of the sums of t (a) and of t^2 (b / 2)."""
    for image in range(first, last):
        dp[image] = 0
        for node in range(index.shape[1]):
            own, down = q[image, node], dq[image, node]
            down[:] = 0
            for rank in range(index.shape[2]):
                neighbour = index[image, node, rank]
                row, target = p[image, neighbour], dp[image, neighbour]
                for c in range(len(shift)):
                    slope = a[c] + b[c] * (widen(row[c]) - widen(own[c]) - shift[c])
                    target[c] += slope
                    down[c] -= slope
