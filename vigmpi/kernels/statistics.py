"""Moments of float32 planes [images, channels, nodes], batch normalisation, and their adjoints.

Sums are float64 sums of deviations from the rounded mean.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vigmpi.kernels import planes
from vigmpi.kernels.threads import over_images

Array = NDArray[np.float64]


class Moments(NamedTuple):
    """Moments of node features over all images and nodes.

    Attributes:
        num_nodes: number of nodes in all images.
        mean: [channels], float64.
        covariance: biased covariance, [channels, channels], float64.
        shift: mean rounded to the features' type, [channels]; deviations are taken from it.
    """

    num_nodes: int
    mean: Tensor
    covariance: Tensor
    shift: Tensor

    @property
    def variance(self) -> Tensor:
        return self.covariance.diagonal()


def moments(x: Tensor) -> Moments:
    """Return the moments of x, differentiable unless x is float32."""
    if x.dtype is not torch.float32:
        return _differentiable_moments(x)
    num_images, channels, nodes_per_image = x.shape
    count = num_images * nodes_per_image
    sums, products = np.empty((num_images, channels)), np.empty((num_images, channels, channels))
    over_images(planes.sums, num_images, x.numpy(), sums)
    mean = sums.sum(axis=0) / count
    shift = mean.astype(np.float32)
    over_images(planes.products, num_images, x.numpy(), shift, products)
    rounding = mean - shift
    covariance = products.sum(axis=0) / count - np.outer(rounding, rounding)
    return Moments(count, *map(torch.from_numpy, (mean, covariance, shift)))


def _differentiable_moments(x: Tensor) -> Moments:
    count = x.shape[0] * x.shape[2]
    mean = x.mean(dim=(0, 2))
    centred = x - mean[:, None]
    covariance = (centred @ centred.transpose(1, 2)).sum(dim=0) / count
    return Moments(count, mean, covariance, mean.detach())


def moments_adjoint(gradient: Tensor, y: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums of the gradient and of gradient (y - shift), float64, [channels]."""
    sums, dots = np.empty((2, *y.shape[:2]))
    over_images(planes.sums, len(y), gradient.numpy(), sums)
    over_images(planes.dots, len(y), gradient.numpy(), y.numpy(), shift.numpy(), dots)
    return torch.from_numpy(sums.sum(axis=0)), torch.from_numpy(dots.sum(axis=0))


def add_moments_adjoint(
    dx: Tensor, dout: Tensor, x: Tensor, moments: Moments, dmean: Tensor, dcovariance: Tensor
) -> None:
    """Add to dx the gradient through the moments of x and, for the residual connection, dout."""
    weights = (dcovariance + dcovariance.T) / moments.num_nodes
    bias = dmean / moments.num_nodes - weights @ (moments.mean - moments.shift)
    arrays = x, moments.shift, weights.float(), bias.float(), dout, dx
    over_images(planes.add_linear_map, len(x), *(t.numpy() for t in arrays))


def add_normalised(
    x: Tensor, y: Tensor, moments: Moments, gamma: Tensor, beta: Tensor, eps: float
) -> Tensor:
    """Return x plus the batch norm of y with y's moments, gamma and beta [channels]."""
    scale = gamma * (moments.variance + eps).rsqrt()
    constant = beta - scale * (moments.mean - moments.shift)
    out = torch.empty_like(x)
    arrays = x, y, moments.shift, torch.ones_like(gamma), scale.float(), constant.float(), out
    over_images(planes.blend, len(y), *(t.numpy() for t in arrays))
    return out


def normalised_adjoint(
    dout: Tensor,
    y: Tensor,
    moments: Moments,
    sums: tuple[Tensor, Tensor],
    gamma: Tensor,
    eps: float,
    dy: Tensor,
) -> tuple[Tensor, Tensor]:
    """Write the gradient of `add_normalised` with respect to y to dy, also through the moments.

    Args:
        sums: the result of `moments_adjoint` for dout, y and the shift of the moments.

    Returns:
        The gradients of gamma and beta.
    """
    dbeta, dots = sums
    rounding = moments.mean - moments.shift
    inverse = (moments.variance + eps).rsqrt()
    dgamma = inverse * (dots - rounding * dbeta)
    scale = gamma * inverse
    slope = -scale * inverse * dgamma / moments.num_nodes  # multiplies the deviations of y
    constant = -scale * dbeta / moments.num_nodes - slope * rounding
    arrays = dout, y, moments.shift, scale.float(), slope.float(), constant.float(), dy
    over_images(planes.blend, len(y), *(t.numpy() for t in arrays))
    return dgamma.to(gamma.dtype), dbeta.to(gamma.dtype)
