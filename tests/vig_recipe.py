"""Weights and inputs of the ViG fixtures, from integer hashing alone (NumPy; float64).

A value depends only on (seed, index, shape, position), so the same numbers come out of any
version of NumPy. Entry i of a model's filled tensors, with shape and role, is

    offset(role) + scale(role, shape) * h,    h uniform in (-sqrt(3), sqrt(3)), variance 1.

Filled are the entries of the state_dict in its order, without `num_batches_tracked` (left at 0)
and without `relative_pos` (computed by the model). Each fixture stores their names, shapes and
roles as `fill_keys`, `fill_shapes` and `fill_roles`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEED = 20220601  # of every fixture

_IMAGE = 10**6  # stream of the input images
_TENSOR = 2 * 10**6  # streams of other inputs and of output gradients


def uniform(seed: int, index: int, shape: Sequence[int]) -> NDArray[np.float64]:
    """Return float64 values of the given shape, uniform in (-sqrt(3), sqrt(3))."""
    state = 0xCBF29CE484222325  # FNV-1a over the arguments
    for word in (seed, index, *shape):
        state = ((state ^ int(word)) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    count = int(np.prod(shape, dtype=np.int64))
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64
        z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = _mix(_mix(z + np.uint64(state)))
    unit = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return ((2 * unit - 1) * np.sqrt(3.0)).reshape(shape)


def value(seed: int, index: int, shape: Sequence[int], role: str) -> NDArray[np.float64]:
    """Return the filled values of one entry.

    Roles: conv_w (scale 1/sqrt(fan_in)), bias, bn_w (1 + 0.1 h), bn_b, bn_mean,
    bn_var (2 + 0.5 h, so always above 1), pos (position table), eps (of GIN); the others 0.1 h.
    """
    h = uniform(seed, index, shape)
    if role == "conv_w":
        return h * np.sqrt(1.0 / np.prod(shape[1:]))
    if role == "bn_w":
        return 1 + 0.1 * h
    if role == "bn_var":
        return 2 + 0.5 * h
    return 0.1 * h


def fill(
    seed: int, shapes: Sequence[Sequence[int]], roles: Sequence[str]
) -> list[NDArray[np.float64]]:
    """Return the values of all filled entries, in order."""
    pairs = enumerate(zip(shapes, roles, strict=True))
    return [value(seed, i, tuple(shape), role) for i, (shape, role) in pairs]


def image(seed: int, shape: Sequence[int]) -> NDArray[np.float64]:
    """Return the input images of a whole model, [images, 3, height, width]."""
    return uniform(seed, _IMAGE, shape)


def tensor(seed: int, index: int, shape: Sequence[int]) -> NDArray[np.float64]:
    """Return input number `index` of a unit; index 500 + i is unit i's output gradient."""
    return uniform(seed, _TENSOR + index, shape)


def labels(count: int, classes: int) -> NDArray[np.int64]:
    """Return the labels of a whole model's input images."""
    return np.array([(7919 * j + 3) % classes for j in range(count)])


def _mix(z: NDArray[np.uint64]) -> Any:  # the finalizer of SplitMix64
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
