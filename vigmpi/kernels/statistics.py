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


def measure(x: Tensor) -> Moments:
    """Return the moments of x."""
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
    dout: Tensor, y: Tensor, moments: Moments, gamma: Tensor, eps: float, dy: Tensor
) -> tuple[Tensor, Tensor]:
    """Write the gradient of `add_normalised` with respect to y to dy, also through the moments.

    Return the gradients of gamma and beta.
    """
    num_images, channels, _ = y.shape
    sums, dots = np.empty((2, num_images, channels))
    shift = moments.shift.numpy()
    over_images(planes.sums, num_images, dout.numpy(), sums)
    over_images(planes.dots, num_images, dout.numpy(), y.numpy(), shift, dots)
    dbeta = torch.from_numpy(sums.sum(axis=0))
    rounding = moments.mean - moments.shift
    inverse = (moments.variance + eps).rsqrt()
    dgamma = inverse * (torch.from_numpy(dots.sum(axis=0)) - rounding * dbeta)
    scale = gamma * inverse
    slope = -scale * inverse * dgamma / moments.num_nodes  # multiplies the deviations of y
    constant = -scale * dbeta / moments.num_nodes - slope * rounding
    arrays = dout, y, moments.shift, scale.float(), slope.float(), constant.float(), dy
    over_images(planes.blend, num_images, *(t.numpy() for t in arrays))
    return dgamma.to(gamma.dtype), dbeta.to(gamma.dtype)
