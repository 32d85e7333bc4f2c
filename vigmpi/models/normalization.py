"""Batch normalisation with running statistics over mini-batches.

A micro-batch is normalised by its own mean and variance, as in GPipe. The running statistics are
updated once per mini-batch from the merged moments of its micro-batches, so that they do not
depend on the division into micro-batches.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F


class LinearBeforeNorm(nn.Linear):
    """Linear layer in front of a batch norm, whose bias takes no gradient.

    The norm subtracts the mean, and with it the bias, so that the exact gradient is zero. In fp32
    it would be rounding noise, which Adam turns into steps of the full learning rate.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return F.linear(input, self.weight, self.bias.detach())


class Conv2dBeforeNorm(nn.Conv2d):
    """Convolution in front of a batch norm, whose bias takes no gradient for the same reason."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        bias = None if self.bias is None else self.bias.detach()
        return self._conv_forward(input, self.weight, bias)


class MicroBatchNorm(nn.BatchNorm1d):
    """Batch norm that can report the moments of each micro-batch.

    If `moments` is a tensor [2, features], a forward pass in training writes the mean and the
    unbiased variance to it and leaves the running statistics to the tensor's owner
    (`pipeline.running_statistics`). If it is None, this is an ordinary batch norm.

    Args:
        num_features: number of features or channels, the second axis of the input.
        values_per_image: number of values of each feature in an image: its nodes or pixels.
    """

    moments: Tensor | None = None

    def __init__(self, num_features: int, values_per_image: int) -> None:
        super().__init__(num_features)
        self.values_per_image = values_per_image

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002
        """Accept lists of nodes [values, features], planes and images."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        if self.moments is None or not self.training:
            return super().forward(input)
        mean, variance = self.moments
        # With a momentum of 1, torch's update of the "running" statistics is a plain store.
        return F.batch_norm(input, mean, variance, self.weight, self.bias, True, 1.0, self.eps)

    def scale_and_offset(
        self, count: int, moments: Callable[[], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Return the scale and the offset of the norm, each [features].

        Args:
            count: number of values of each feature.
            moments: function that returns their mean and biased variance with gradients. It is
                called in training only, and the moments are recorded.
        """
        if self.training:
            mean, variance = moments()
            self.record_moments(count, mean.double(), variance.double())
        else:
            assert self.running_mean is not None
            assert self.running_var is not None
            mean, variance = self.running_mean, self.running_var
        scale = self.weight * (variance + self.eps).rsqrt()
        return scale, self.bias - scale * mean

    @torch.no_grad()
    def record_moments(self, count: int, mean: Tensor, variance: Tensor) -> None:
        """Record a micro-batch's moments of `count` values (biased variance)."""
        if self.moments is None:
            self.update_running(count, mean, variance)
        else:
            # Through `data`, so that autograd ignores writes to a tensor that norms share.
            self.moments.data[0] = mean
            self.moments.data[1] = variance * count / (count - 1)

    def update_running(self, count: int, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards the moments of `count` values (biased variance)."""
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
    """Return the mean and variance of the union of several groups of values.

    Args:
        counts: number of values in each group, [groups].
        means: mean of each group, [groups, features].
        variances: biased variance of each group, [groups, features].

    Returns:
        The mean and the biased variance, each [features].

    Raises:
        ValueError: if all groups are empty.

    Source: Chan, Golub, LeVeque, The American Statistician 37(3), 1983.
    """
    if not counts.any():
        raise ValueError("all groups are empty")
    shares = (counts / counts.sum())[:, None]
    mean = (shares * means).sum(axis=0)
    return mean, (shares * (variances + (means - mean) ** 2)).sum(axis=0)
