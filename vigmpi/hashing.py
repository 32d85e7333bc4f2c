"""Counter-based random numbers: the same on any rank and in any order."""

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def random_words(samples: NDArray[np.int64], *key: int) -> NDArray[np.uint64]:
    """Return 64 random bits for each sample.

    Args:
        samples: index of each sample.
        key: seed and all other numbers that they depend on.

    Source: the finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), applied to one word
    after another.
    """
    state = np.zeros(len(samples), dtype=np.uint64)
    for word in (*(number & (2**64 - 1) for number in key), samples):
        state = _finalize(state * _GOLDEN + np.asarray(word).astype(np.uint64) + _GOLDEN)
    return state


def _finalize(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
