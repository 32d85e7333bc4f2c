"""Compiled search for the nearest candidates of every node.

With unit vectors x of a node and y of a candidate (zero stays zero), the squared distance without
the term of the node, which changes no order, is

    d = |y|^2 - 2 x . y + offset

A tile of products is computed for a block of nodes and LANES candidates, over the channels in
ascending order; the distances of a block of nodes are all that is stored. The bits of a distance
depend on its node and its candidate alone.

The nearest candidates of a node are found without sorting all of them: bisection gives a threshold
with `count` to `count + SLACK` distances at or below it, or, where more distances are equal, with
only the first of these. The rank of each is the number of those before it, by distance and, among
equal distances, by index. Both only count, which is vectorised, and were faster than an insertion
sort from 30 distances on.
"""

import numpy as np
from numba import njit

_BLOCK = 32  # nodes
_LANES = 32  # candidates in a tile
_SLACK = 4


@njit(fastmath={"contract"}, nogil=True, cache=True)
def nearest(first, last, x, y, offsets, dilation, index):  # type: ignore[no-untyped-def]
    """Write the neighbours of the nodes of the images [first, last) to index.

    Args:
        x, y: features of nodes and candidates, [images, nodes or candidates, channels].
        offsets: [nodes, candidates], or [0, candidates] for none.
        dilation: the neighbours are those of rank 0, dilation, 2 dilation, ...
        index: [images, nodes, k], 0 on entry. Where distances are NaN, 0 may remain.
    """
    num_nodes, channels = x.shape[1:]
    num_candidates = y.shape[1]
    count = dilation * (index.shape[2] - 1) + 1
    depth = -(-channels // 4) * 4
    tiles = -(-num_candidates // _LANES)
    width = tiles * _LANES
    real = x.dtype.type
    units = np.zeros((tiles, depth, _LANES), x.dtype)
    squares = np.full((tiles, _LANES), real(np.inf))  # no candidate, no finite distance
    nodes = np.zeros((_BLOCK, depth), x.dtype)
    tile = np.empty((_BLOCK, _LANES), x.dtype)
    distances = np.empty((_BLOCK, width), x.dtype)
    kept = np.empty(width + 1, np.int32)
    values = np.empty(width + 1, x.dtype)
    low, high = real(-1.1), real(3.1)  # no finite distance is outside
    if len(offsets) > 0:
        low, high = low + offsets.min(), high + offsets.max()
        high = min(high, real(np.finfo(np.float32).max))  # an infinite distance is never chosen
    for image in range(first, last):
        _scale_candidates(y[image], units, squares)
        for start in range(0, num_nodes, _BLOCK):
            size = min(_BLOCK, num_nodes - start)
            _scale_nodes(x[image, start : start + size], nodes)
            for t in range(tiles):
                for r in range(_BLOCK):
                    for m in range(_LANES):
                        tile[r, m] = squares[t, m]
                _add_products(nodes, units[t], tile)
                for r in range(_BLOCK):
                    for m in range(_LANES):
                        distances[r, t * _LANES + m] = tile[r, m]
            for r in range(size):
                row = distances[r]
                if len(offsets) > 0:
                    _add_offsets(offsets[start + r], row)
                target = index[image, start + r]
                _select(row, low, high, num_candidates, count, dilation, kept, values, target)


@njit(fastmath={"contract", "reassoc"}, forceinline=True)
def _scale_candidates(y, units, squares):  # type: ignore[no-untyped-def]
    """Write the unit vectors of y [candidates, channels] and their squared lengths by tiles."""
    for m in range(len(y)):
        inverse = _inverse_norm(y[m])
        square = y.dtype.type(0)
        for c in range(y.shape[1]):
            unit = y[m, c] * inverse
            units[m // _LANES, c, m % _LANES] = unit
            square += unit * unit
        squares[m // _LANES, m % _LANES] = square


@njit(fastmath={"contract"}, forceinline=True)
def _scale_nodes(x, nodes):  # type: ignore[no-untyped-def]
    """Write the unit vectors of x [nodes, channels], times -2."""
    for r in range(len(x)):
        factor = x.dtype.type(-2) * _inverse_norm(x[r])
        for c in range(x.shape[1]):
            nodes[r, c] = x[r, c] * factor


@njit(forceinline=True)
def _add_offsets(offsets, row):  # type: ignore[no-untyped-def]
    for m in range(len(offsets)):
        row[m] += offsets[m]


@njit(fastmath={"contract", "reassoc"}, forceinline=True)
def _inverse_norm(vector):  # type: ignore[no-untyped-def]
    square = vector.dtype.type(0)
    for value in vector:
        square += value * value
    norm, tiny = np.sqrt(square), vector.dtype.type(1e-12)
    return vector.dtype.type(1) / (tiny if norm < tiny else norm)


@njit(fastmath={"contract"}, inline="always")
def _add_products(nodes, units, tile):  # type: ignore[no-untyped-def]
    """Add nodes [block, depth] @ units [depth, lanes] to the tile, four nodes and channels a time.

    Inlined before compilation, so that LLVM knows the strides.
    """
    for c in range(0, nodes.shape[1], 4):
        u = units[c : c + 4]
        for r in range(0, _BLOCK, 4):
            s, t = r + 1, r + 2
            v = r + 3
            a0, a1, a2, a3 = nodes[r, c], nodes[r, c + 1], nodes[r, c + 2], nodes[r, c + 3]
            b0, b1, b2, b3 = nodes[s, c], nodes[s, c + 1], nodes[s, c + 2], nodes[s, c + 3]
            c0, c1, c2, c3 = nodes[t, c], nodes[t, c + 1], nodes[t, c + 2], nodes[t, c + 3]
            d0, d1, d2, d3 = nodes[v, c], nodes[v, c + 1], nodes[v, c + 2], nodes[v, c + 3]
            for m in range(_LANES):
                u0, u1, u2, u3 = u[0, m], u[1, m], u[2, m], u[3, m]
                tile[r, m] += a0 * u0 + a1 * u1 + a2 * u2 + a3 * u3
                tile[s, m] += b0 * u0 + b1 * u1 + b2 * u2 + b3 * u3
                tile[t, m] += c0 * u0 + c1 * u1 + c2 * u2 + c3 * u3
                tile[v, m] += d0 * u0 + d1 * u1 + d2 * u2 + d3 * u3


@njit(fastmath={"contract", "reassoc"}, forceinline=True)
def _number_up_to(row, threshold):  # type: ignore[no-untyped-def]
    number = np.float32(0)  # as a float, since numba would count in int64, with fewer lanes
    for m in range(len(row)):
        number += np.float32(1) if row[m] <= threshold else np.float32(0)
    return number


@njit(forceinline=True)
def _select(row, low, high, num_candidates, count, dilation, kept, values, index):  # type: ignore[no-untyped-def]
    """Write the candidates of rank 0, dilation, ... up to count - 1 to index."""
    room = num_candidates  # for distances above `low`
    while True:
        middle = low + (high - low) * row.dtype.type(0.5)
        if not low < middle < high:  # no number is in between: the distances above are equal
            room = count - int(_number_up_to(row, low))
            break
        number = _number_up_to(row, middle)
        if number >= count:
            high = middle
            if number <= count + _SLACK:
                break
        else:
            low = middle
    size = 0
    for m in range(num_candidates):
        above = row[m] > low
        kept[size], values[size] = m, row[m]
        keep = (row[m] <= high) & (room > 0 if above else True)
        room -= keep & above
        size += keep
    for i in range(size):
        rank = int(_number_before(values, size, i))
        if rank < count and rank % dilation == 0:
            index[rank // dilation] = kept[i]


@njit(fastmath={"contract", "reassoc"}, forceinline=True)
def _number_before(values, size, i):  # type: ignore[no-untyped-def]
    """Return the rank of a value, among equals by index."""
    number = np.float32(0)
    for j in range(size):
        number += np.float32(1) if values[j] < values[i] else np.float32(0)
    for j in range(i):
        number += np.float32(1) if values[j] == values[i] else np.float32(0)
    return number
