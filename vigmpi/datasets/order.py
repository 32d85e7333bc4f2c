"""Order of the samples and its division into mini-batches and micro-batches.

Every rank computes the same order, which depends only on the seed and the layout.
"""

from collections.abc import Iterator

import numpy as np

from vigmpi.datasets.dataset import Indices
from vigmpi.layout.split import even_sizes


def shuffled(num_images: int, seed: int, epoch: int) -> Indices:
    """Return the order in which the replicas together process the samples of an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(num_images)


def fixed_permutation(num_images: int) -> Indices:
    """Return the order of every test, in which a few mini-batches represent all classes."""
    return np.random.default_rng(num_images).permutation(num_images)


def images_left(num_images: int, done: int, batch_size: int, *, drop_last: bool) -> int:
    """Return the number of images that the rest of an epoch uses.

    Args:
        done: number of images that preceded them in the epoch.
        drop_last: whether to leave out an incomplete last mini-batch.
    """
    left = num_images - done
    return left - left % batch_size if drop_last else left


def mini_batches(order: Indices, batch_size: int, limit: int, done: int = 0) -> Iterator[Indices]:
    """Divide an order into global mini-batches of `batch_size`; the last one may be smaller.

    Args:
        limit: maximum number of mini-batches in an epoch, or 0 for all.
        done: number of mini-batches of the epoch that precede this order.
    """
    for step in range(num_mini_batches(len(order), batch_size, limit, done)):
        yield order[step * batch_size : (step + 1) * batch_size]


def num_mini_batches(num_images: int, batch_size: int, limit: int, done: int = 0) -> int:
    """Return the number of mini-batches that `mini_batches` yields."""
    steps = -(-num_images // batch_size)
    return min(steps, max(0, limit - done)) if limit else steps


def micro_batches(mini_batch: Indices, replicas: int, chunks: int) -> list[list[Indices]]:
    """Divide a global mini-batch into `chunks` micro-batches for each replica.

    Sizes differ by at most one over all replicas. Larger ones come first and empty ones last.
    """
    ends = np.cumsum(even_sizes(len(mini_batch), replicas * chunks))
    pieces = np.split(mini_batch, ends[:-1])
    return [pieces[r * chunks : (r + 1) * chunks] for r in range(replicas)]
