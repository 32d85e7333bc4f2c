"""Which samples make a mini-batch, and which of them a replica's micro-batches are.

Pure functions of the seed and the layout: every rank works out the same order for itself.
"""

from collections.abc import Iterator

import numpy as np

from vigmpi.datasets.dataset import Indices
from vigmpi.layout.split import even_sizes


def shuffled(samples: int, seed: int, epoch: int) -> Indices:
    """The order in which an epoch goes through its samples, on all replicas together."""
    return np.random.default_rng([seed, epoch]).permutation(samples)


def fixed_permutation(samples: int) -> Indices:
    """The order of every test: a few mini-batches of it stand for all classes."""
    return np.random.default_rng(samples).permutation(samples)


def mini_batches(order: Indices, images: int, limit: int, done: int = 0) -> Iterator[Indices]:
    """Cut an order into global mini-batches of `images`; the last may be shorter.

    Args:
        limit: of an epoch, at most so many mini-batches; 0 for all.
        done: how many of the epoch came before this order.
    """
    for step in range(steps(len(order), images, limit, done)):
        yield order[step * images : (step + 1) * images]


def steps(samples: int, images: int, limit: int, done: int = 0) -> int:
    """How many mini-batches `mini_batches` yields."""
    whole = -(-samples // images)
    return min(whole, max(0, limit - done)) if limit else whole


def micro_batches(mini_batch: Indices, replicas: int, chunks: int) -> list[list[Indices]]:
    """Cut a global mini-batch into `chunks` micro-batches for each replica.

    Sizes differ by at most one over all replicas, larger ones first, so empty ones are the last.
    """
    ends = np.cumsum(even_sizes(len(mini_batch), replicas * chunks))
    cut = np.split(mini_batch, ends[:-1])
    return [cut[r * chunks : (r + 1) * chunks] for r in range(replicas)]
