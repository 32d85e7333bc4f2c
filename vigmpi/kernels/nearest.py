"""Compiled search for the nearest candidates of every node.

With unit vectors x of a node and y of a candidate (zero stays zero), the squared distance without
the term of the node, which changes no order, is

    d = |y|^2 - 2 x . y + offset

A tile of products is computed for a block of nodes and LANES candidates, over the channels in
ascending order; the distances of a block of nodes are all that is stored. The bits of a distance
depend on its node and its candidate alone.

The nearest candidates of a node are found without sorting all of them. A threshold with at least
`count` minima of groups at or below it has at least as many distances there. If they are more than
`count + SLACK`, bisection lowers the threshold, or, where more distances are equal, only the first
of these are taken. The rank of each is the number of those before it, by distance and, among equal
distances, by index. All of this is vectorised: results of comparisons are counted, or packed into
bits, of which only the set ones are visited.
"""

import numpy as np
from numba import njit

from vigmpi.kernels.compilation import kernel

_BLOCK = 32  # nodes
_LANES = 32  # candidates in a tile
_SLACK = 12
_GROUP = 16  # distances that are compared at a time, with a bit for each
_POWERS = 2.0 ** np.arange(_GROUP, dtype=np.float32)
# Exponent of a power of two, by its remainder modulo 37, all of which differ up to 2^35.
_PLACE = np.array([next((m for m in range(_LANES) if 2**m % 37 == rest), 0) for rest in range(37)])
_RANKED = 16  # kept distances that are compared at a time


@kernel()
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
    num_minima = -(-2 * count // _LANES) * _LANES
    minima = np.empty(num_minima if 2 * num_minima <= width else 0, x.dtype)
    kept, ranked = np.empty(width + 1, np.int32), np.empty(width + 1, np.int32)
    values = np.empty(width + _RANKED, x.dtype)
    places = np.arange(width + _RANKED).astype(np.float32)
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
                found = _keep_smallest(row, minima, low, high, count, kept, values)
                _sort(kept, values, places, found, ranked)
                for j in range(-(-min(found, count) // dilation)):
                    index[image, start + r, j] = ranked[j * dilation]


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
def _keep_smallest(row, minima, low, high, count, kept, values):  # type: ignore[no-untyped-def]
    """Write the `count` smallest distances in (low, high], and at most SLACK more, with indices.

    Returns:
        The number of them.
    """
    if len(minima) > 0:
        _minima_of_groups(row, minima)
        _, bound, _ = _threshold(minima, low, high, count, 1)
        if _number_up_to(minima, bound) >= count:
            high = bound
    size = _keep_up_to(row, high, kept, values)
    if size > count + _SLACK:
        low, high, room = _threshold(row, low, high, count, _SLACK)
        size = _keep_interval(row, low, high, room, kept, values)
    return size


@njit(forceinline=True)
def _keep_up_to(row, high, kept, values):  # type: ignore[no-untyped-def]
    """Write all distances up to `high` with their indices; return the number of them."""
    size = 0
    for start in range(0, len(row), _LANES):
        bits = _bits_up_to(row, start, high)
        bits += _bits_up_to(row, start + _GROUP, high) << _GROUP
        while bits > 0:
            lowest = bits & -bits
            m = start + _PLACE[lowest % len(_PLACE)]
            kept[size], values[size] = m, row[m]
            size += 1
            bits -= lowest
    return size


@njit(forceinline=True)
def _keep_interval(row, low, high, room, kept, values):  # type: ignore[no-untyped-def]
    """Write the distances up to `low` and the first `room` of those up to `high`, likewise."""
    size = 0
    for m in range(len(row)):
        above = row[m] > low
        kept[size], values[size] = m, row[m]
        keep = (row[m] <= high) & (room > 0 if above else True)
        room -= keep & above
        size += keep
    return size


@njit(fastmath={"contract", "reassoc"}, forceinline=True)
def _bits_up_to(row, start, threshold):  # type: ignore[no-untyped-def]
    bits = np.float32(0)
    for m in range(_GROUP):
        bits += _POWERS[m] if row[start + m] <= threshold else np.float32(0)
    return int(bits)


@njit(forceinline=True)
def _minima_of_groups(row, minima):  # type: ignore[no-untyped-def]
    """Write the minimum of every len(minima)-th distance."""
    number = len(minima)
    for m in range(number):
        minima[m] = row[m]
    for start in range(number, len(row), _LANES):
        group = minima[start % number : start % number + _LANES]
        for m in range(_LANES):
            value = row[start + m]
            group[m] = value if value < group[m] else group[m]


@njit(forceinline=True)
def _threshold(row, low, high, count, slack):  # type: ignore[no-untyped-def]
    """Bisect the interval (low, high) until `count` to `count + slack` numbers are up to `high`.

    Returns:
        low, high, and the number of those above `low` to take: all, unless they are equal.
    """
    while True:
        middle = low + (high - low) * row.dtype.type(0.5)
        if not low < middle < high:  # no number is in between: the distances above are equal
            return low, high, count - int(_number_up_to(row, low))
        number = _number_up_to(row, middle)
        if number >= count:
            high = middle
            if number <= count + slack:
                return low, high, len(row)
        else:
            low = middle


@njit(forceinline=True)
def _sort(kept, values, places, size, ranked):  # type: ignore[no-untyped-def]
    """Write the kept candidates in the order of their values."""
    for j in range(size, size + _RANKED):
        values[j] = np.inf
    for i in range(size):
        ranked[int(_number_before(values, places, size, i))] = kept[i]


@njit(fastmath={"contract", "reassoc"}, forceinline=True)
def _number_before(values, places, size, i):  # type: ignore[no-untyped-def]
    """Return the rank of a value, among equals by index."""
    number, value, place = np.float32(0), values[i], places[i]
    for start in range(0, size, _RANKED):
        for j in range(start, start + _RANKED):
            before = (values[j] < value) | ((values[j] == value) & (places[j] < place))
            number += np.float32(1) if before else np.float32(0)
    return number
