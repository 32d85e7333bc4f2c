"""Batch normalisation whose running statistics follow the whole mini-batch.

A micro-batch is normalised by its own mean and variance, as in GPipe. The running statistics
are updated once a mini-batch from all its micro-batches taken as one, so that they do not
depend on how the mini-batch was cut.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F


class LinearBeforeNorm(nn.Linear):
    """A Linear layer in front of a batch norm, whose bias takes no gradient.

    The norm subtracts the mean, and the bias with it: in truth that gradient is zero. In fp32
    it would be rounding noise, which Adam turns into steps of the full learning rate.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return F.linear(input, self.weight, self.bias.detach())


class MicroBatchNorm(nn.BatchNorm1d):
    """BatchNorm1d that can hand out each micro-batch's moments.

    While `moments` is a tensor [2, features], a training forward writes mean and unbiased
    variance there and leaves the running statistics to the owner of that tensor
    (`Stage.update_running`). While it is None, this is an ordinary BatchNorm1d.
    """

    moments: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        if self.moments is None or not self.training:
            return super().forward(input)
        mean, variance = self.moments
        # A momentum of 1 makes torch's update of "running" statistics a plain store.
        return F.batch_norm(input, mean, variance, self.weight, self.bias, True, 1.0, self.eps)

    @torch.no_grad()
    def record_moments(self, count: int, mean: Tensor, variance: Tensor) -> None:
        """Take note of a micro-batch's moments, worked out elsewhere (variance biased)."""
        if self.moments is None:
            self.update_running(count, mean, variance)
        else:
            # Through `data`: autograd need not fear for other norms' views of the same tensor.
            self.moments.data[0] = mean
            self.moments.data[1] = variance * count / (count - 1)

    def update_running(self, count: int, mean: Tensor, variance: Tensor) -> None:
        """Step the running statistics towards those of `count` values (variance biased)."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        for running, value in (
            (self.running_mean, mean),
            (self.running_var, variance * count / (count - 1)),
        ):
            running.copy_(torch.lerp(running.double(), value, self.momentum))
        self.num_batches_tracked += 1


def merge_moments(
    counts: NDArray[np.int64], means: NDArray[np.float64], variances: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance of several groups of values taken as one.

    Args:
        counts: values in each group, [groups].
        means: [groups, features].
        variances: biased, [groups, features].

    Returns:
        mean and biased variance, each [features].

    Raises:
        ValueError: all groups are empty.

    Source: Chan, Golub, LeVeque, The American Statistician 37(3), 1983.
    """
    if not counts.any():
        raise ValueError("all groups are empty")
    shares = (counts / counts.sum())[:, None]
    mean = (shares * means).sum(axis=0)
    return mean, (shares * (variances + (means - mean) ** 2)).sum(axis=0)
