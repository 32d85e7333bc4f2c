"""Moments of planes [images, channels, nodes], batch normalisation, and their adjoints.

Sums are accumulated in float64; products are those of deviations from a rounded mean. Sums are
taken over each band of nodes; those of the bands are then gathered from all ranks and merged in a
fixed order.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vigmpi.kernels import planes
from vigmpi.kernels.lattice import Bands, Graph
from vigmpi.kernels.threads import over_bands

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

    @property
    def rounding(self) -> Array:
        """The mean less the shift, [channels]."""
        rounding: Array = self.mean.numpy() - self.shift.numpy()
        return rounding

    def inverse_deviation(self, eps: float) -> Array:
        """Return 1 / sqrt(variance + eps), [channels]."""
        inverse: Array = 1 / np.sqrt(self.variance.numpy() + eps)
        return inverse


def moments(x: Tensor, graph: Graph) -> Moments:
    """Return the moments of features over all of a graph's nodes. Collective over its ranks.

    Source: Chan, Golub, LeVeque, The American Statistician 37(3), 1983.
    """
    channels, count = x.shape[1], len(x) * graph.num_nodes
    rows = graph.gather(_moments_of_bands(x, graph.bands))
    counts, means, squares = rows[:, :1], rows[:, 1 : 1 + channels], rows[:, 1 + channels :]
    mean = (counts * means).sum(axis=0) / count
    deviations = means - mean
    between = (counts[:, :, None] * deviations[:, :, None] * deviations[:, None]).sum(axis=0)
    covariance = (squares.sum(axis=0).reshape(channels, channels) + between) / count
    moments = torch.from_numpy(mean), torch.from_numpy(covariance)
    return Moments(count, *moments, moments[0].to(x.dtype))


def _moments_of_bands(x: Tensor, bands: Bands) -> Array:
    """Return the moments of each band's nodes in all images, [bands, 1 + channels + channels^2].

    They are the number of values, their means, and the sums of products of their deviations.
    """
    num_images, channels, _ = x.shape
    array, count = x.numpy(), num_images * np.diff(bands)[:, None]
    sums = np.empty((num_images, len(count), channels))
    over_bands(planes.sums, num_images, bands, array, sums)
    means = sums.sum(axis=0) / count
    shift = means.astype(array.dtype)
    products = np.empty((num_images, len(count), channels, channels))
    over_bands(planes.products, num_images, bands, array, shift, products)
    rounding = means - shift
    squares = products.sum(axis=0) - count[:, None] * rounding[:, :, None] * rounding[:, None]
    return np.concatenate([count, means, squares.reshape(len(count), -1)], axis=1)


def moments_adjoint(
    gradient: Tensor, y: Tensor, shift: Tensor, graph: Graph
) -> tuple[Tensor, Tensor]:
    """Return the sums of the gradient and of gradient (y - shift), float64, [channels].

    They determine the gradient of features y that were normalised by their moments. Collective
    over the graph's ranks.
    """
    num_images, channels, _ = y.shape
    sums, dots = np.empty((2, num_images, len(graph.bands) - 1, channels))
    over_bands(planes.sums, num_images, graph.bands, gradient.numpy(), sums)
    arrays = gradient.numpy(), y.numpy(), shift.numpy()
    over_bands(planes.dots, num_images, graph.bands, *arrays, dots)
    rows = graph.gather(np.concatenate([sums.sum(axis=0), dots.sum(axis=0)], axis=1))
    totals = torch.from_numpy(rows.sum(axis=0))
    return totals[:channels], totals[channels:]


def node_sums(x: Tensor, graph: Graph) -> Tensor:
    """Return the sums of features over the nodes of each image, [images, channels].

    Collective over the graph's ranks.
    """
    num_images, channels, _ = x.shape
    sums = np.empty((num_images, len(graph.bands) - 1, channels))
    over_bands(planes.sums, num_images, graph.bands, x.numpy(), sums)
    rows = graph.gather(sums.swapaxes(0, 1).reshape(sums.shape[1], -1))
    return torch.from_numpy(rows.sum(axis=0)).view(num_images, channels).to(x.dtype)


def add_moments_adjoint(
    dx: Tensor,
    dout: Tensor,
    x: Tensor,
    moments: Moments,
    dmean: Tensor,
    dcovariance: Tensor,
    bands: Bands,
) -> None:
    """Add to dx the gradient through the moments of x and, for the residual connection, dout."""
    weights = (dcovariance + dcovariance.T) / moments.num_nodes
    bias = dmean / moments.num_nodes - weights @ (moments.mean - moments.shift)
    arrays = x, moments.shift, weights.to(x.dtype), bias.to(x.dtype), dout, dx
    over_bands(planes.add_linear_map, len(x), bands, *(t.numpy() for t in arrays))


def add_normalised(
    x: Tensor, y: Tensor, moments: Moments, gamma: Tensor, beta: Tensor, eps: float, bands: Bands
) -> Tensor:
    """Return x plus the batch norm of y with y's moments, gamma and beta [channels]."""
    scale = gamma.detach().numpy() * moments.inverse_deviation(eps)
    constant = beta.detach().numpy() - scale * moments.rounding
    out, shift = torch.empty_like(x), moments.shift.numpy()
    weights = (weight.astype(shift.dtype) for weight in (np.ones_like(scale), scale, constant))
    over_bands(planes.blend, len(y), bands, x.numpy(), y.numpy(), shift, *weights, out.numpy())
    return out


def normalised_adjoint(
    dout: Tensor,
    y: Tensor,
    moments: Moments,
    sums: tuple[Tensor, Tensor],
    gamma: Tensor,
    eps: float,
    dy: Tensor,
    bands: Bands,
) -> tuple[Tensor, Tensor]:
    """Write the gradient of `add_normalised` with respect to y to dy, also through the moments.

    Args:
        sums: the result of `moments_adjoint` for dout, y and the shift of the moments.

    Returns:
        The gradients of gamma and beta.
    """
    dbeta, dots = (tensor.numpy() for tensor in sums)
    rounding, inverse = moments.rounding, moments.inverse_deviation(eps)
    dgamma = inverse * (dots - rounding * dbeta)
    scale = gamma.detach().numpy() * inverse
    slope = -scale * inverse * dgamma / moments.num_nodes  # multiplies the deviations of y
    constant = -scale * dbeta / moments.num_nodes - slope * rounding
    shift = moments.shift.numpy()
    weights = (weight.astype(shift.dtype) for weight in (scale, slope, constant))
    arrays = dout.numpy(), y.numpy(), shift, *weights, dy.numpy()
    over_bands(planes.blend, len(y), bands, *arrays)
    return torch.from_numpy(dgamma).to(gamma.dtype), torch.from_numpy(dbeta).to(gamma.dtype)
