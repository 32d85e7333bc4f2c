import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vigmpi.models.model import Model
from vigmpi.models.normalization import MicroBatchNorm, merge_moments


class RunningStatistics:
    """Running statistics of a stage's batch norms, updated once per mini-batch.

    The norms of the model report the moments of each micro-batch to this object from now on.

    Attributes:
        moments: mean and unbiased variance of every norm for each micro-batch, [chunks, width].
    """

    def __init__(self, model: Model, chunks: int) -> None:
        self._norms = [m for m in model.modules() if isinstance(m, MicroBatchNorm)]
        self._latest = _moment_views(self._norms)
        self.moments = self._latest.new_zeros(chunks, len(self._latest))

    def keep(self, number: int) -> None:
        """Keep the moments of the latest forward pass as those of this micro-batch."""
        self.moments[number] = self._latest

    def update(self, sizes: NDArray[np.int64], moments: NDArray[np.floating]) -> None:
        """Update the running statistics from all micro-batches of a global mini-batch.

        Args:
            sizes: images of each micro-batch, 0 if it is empty, [micro-batches].
            moments: the corresponding rows of `moments`, [micro-batches, width].
        """
        rows = moments[sizes > 0].astype(np.float64)
        start = 0
        for norm in self._norms:
            counts = sizes[sizes > 0] * norm.values_per_image
            means = rows[:, start : start + norm.num_features]
            unbiased = rows[:, start + norm.num_features : start + 2 * norm.num_features]
            biased = unbiased * ((counts - 1) / counts)[:, None]
            mean, variance = merge_moments(counts, means, biased)
            norm.update_running(
                int(counts.sum()), torch.from_numpy(mean), torch.from_numpy(variance)
            )
            start += 2 * norm.num_features


def _moment_views(norms: list[MicroBatchNorm]) -> Tensor:
    """Make each norm's moments a view [2, features] of one flat tensor, in order."""
    sizes = [2 * norm.num_features for norm in norms]
    dtype = norms[0].weight.dtype if norms else None
    flat = torch.zeros(sum(sizes), dtype=dtype)
    for norm, view in zip(norms, flat.split(sizes), strict=True):
        norm.moments = view.view(2, norm.num_features)
    return flat
