"""Moments of float32 planes [images, channels, nodes], normalisation by them, and the adjoints.

Sums are taken in float64, of deviations from the rounded mean.
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
    """Of node features over all images and nodes.

    Attributes:
        num_nodes: how many there are.
        mean: [channels], float64.
        covariance: biased, [channels, channels], float64.
        shift: the mean as rounded to the features' type; deviations are taken from it.
    """

    num_nodes: int
    mean: Tensor
    covariance: Tensor
    shift: Tensor

    @property
    def variance(self) -> Tensor:
        return self.covariance.diagonal()


def measure(x: Tensor) -> Moments:
    images, channels, nodes = x.shape
    count = images * nodes
    sums, products = np.empty((images, channels)), np.empty((images, channels, channels))
    over_images(planes.sums, images, x.numpy(), sums)
    mean = sums.sum(axis=0) / count
    shift = mean.astype(np.float32)
    over_images(planes.products, images, x.numpy(), shift, products)
    off = mean - shift
    covariance = products.sum(axis=0) / count - np.outer(off, off)
    return Moments(count, *map(torch.from_numpy, (mean, covariance, shift)))


def add_moments_adjoint(
    dx: Tensor, dout: Tensor, x: Tensor, moments: Moments, dmean: Tensor, dcovariance: Tensor
) -> None:
    """Add to dx what the gradients of x's moments are for x, and dout besides."""
    weights = (dcovariance + dcovariance.T) / moments.num_nodes
    bias = dmean / moments.num_nodes - weights @ (moments.mean - moments.shift)
    arrays = x, moments.shift, weights.float(), bias.float(), dout, dx
    over_images(planes.add_linear_map, len(x), *(t.numpy() for t in arrays))


def add_normalised(
    x: Tensor, y: Tensor, moments: Moments, gamma: Tensor, beta: Tensor, eps: float
) -> Tensor:
    """Batch norm of y by its moments, with gamma and beta [channels], added to x."""
    scale = gamma * (moments.variance + eps).rsqrt()
    constant = beta - scale * (moments.mean - moments.shift)
    out = torch.empty_like(x)
    arrays = x, y, moments.shift, torch.ones_like(gamma), scale.float(), constant.float(), out
    over_images(planes.blend, len(y), *(t.numpy() for t in arrays))
    return out


def normalised_adjoint(
    dout: Tensor, y: Tensor, moments: Moments, gamma: Tensor, eps: float, dy: Tensor
) -> tuple[Tensor, Tensor]:
    """Write the gradient of `add_normalised` for y into dy; return those of gamma and beta.

    Through the moments, too.
    """
    images, channels, _ = y.shape
    sums, dots = np.empty((2, images, channels))
    shift = moments.shift.numpy()
    over_images(planes.sums, images, dout.numpy(), sums)
    over_images(planes.dots, images, dout.numpy(), y.numpy(), shift, dots)
    dbeta = torch.from_numpy(sums.sum(axis=0))
    off = moments.mean - moments.shift
    inverse = (moments.variance + eps).rsqrt()
    dgamma = inverse * (torch.from_numpy(dots.sum(axis=0)) - off * dbeta)
    scale = gamma * inverse
    slope = -scale * inverse * dgamma / moments.num_nodes  # along y's deviations
    constant = -scale * dbeta / moments.num_nodes - slope * off
    arrays = dout, y, moments.shift, scale.float(), slope.float(), constant.float(), dy
    over_images(planes.blend, images, *(t.numpy() for t in arrays))
    return dgamma.to(gamma.dtype), dbeta.to(gamma.dtype)
