from collections.abc import Sequence

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from vigmpi.comm.collectives import allgather_rows
from vigmpi.kernels.threads import one_torch_thread


def gradient_norm(
    buckets: Sequence[Tensor], layers: range, num_layers: int, comm: MPI.Comm
) -> float:
    """Return the Euclidean norm of the gradients of all stages. Collective over the stages.

    The squares of each layer are added in float64, then those of the layers in order, so that the
    bits do not depend on the split.

    Args:
        buckets: gradients of each layer of this stage.
        layers: indices of these layers among the `num_layers` of the model.
    """
    squares = np.zeros(num_layers)
    squares[layers.start : layers.stop] = [_sum_of_squares(bucket) for bucket in buckets]
    by_layer = allgather_rows(comm, squares).sum(axis=0)  # all but one term are zero
    return float(np.sqrt(sum(by_layer.tolist())))


def clip(buckets: Sequence[Tensor], norm: float, largest: float) -> None:
    """Scale gradients of this norm to the norm `largest` if theirs is larger.

    Source: Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks",
    ICML 2013.
    """
    if norm > largest:
        for bucket in buckets:
            bucket.mul_(largest / norm)


@one_torch_thread()
def _sum_of_squares(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float64)) ** 2
