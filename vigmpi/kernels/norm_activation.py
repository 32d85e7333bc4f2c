"""Batch norm and activation of feature rows [images, nodes, channels], and their adjoints."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vigmpi.kernels import batch_norm
from vigmpi.kernels.arrays import as_array, compute_dtype
from vigmpi.kernels.scratch import reused, scratch
from vigmpi.kernels.threads import over_images

Vector = NDArray[np.float64]

_SOME_ROWS = 64


class Statistics(NamedTuple):
    """Mean and biased variance of each channel, float64, [channels]."""

    mean: Vector
    variance: Vector


class Norm(NamedTuple):
    """Batch norm with fixed statistics, and what follows it.

    Attributes:
        statistics: of the rows, or running ones.
        training: true if the statistics are those of the rows, so that they pass gradients on.
        gamma: weight, [channels].
        inverse: 1 / sqrt(variance + eps), float64.
        shift, scale, offset: the norm is scale (z - shift) + offset, in the type of computation.
        activation: "none", "relu" or "gelu".
    """

    statistics: Statistics
    training: bool
    gamma: Tensor
    inverse: Vector
    shift: NDArray[Any]
    scale: NDArray[Any]
    offset: NDArray[Any]
    activation: str


def measure(z: Tensor) -> Statistics:
    """Return the statistics of rows.

    Raises:
        ValueError: if there is a single row, which has no unbiased variance.
    """
    values = as_array(z)
    count = values.shape[0] * values.shape[1]
    if count == 1:
        raise ValueError("batch norm in training needs more than one value per channel")
    # Near the mean, so that the variance from sums of squares does not cancel.
    some = z[0, :: max(1, z.shape[1] // _SOME_ROWS)]
    shift = some.to(compute_dtype(z)).mean(dim=0).numpy()
    sums = np.empty((len(values), 2, len(shift)))
    over_images(batch_norm.sums, len(values), values, shift, sums)
    mean, squares = sums.sum(axis=0) / count
    return Statistics(mean + shift, np.maximum(squares - mean**2, 0.0))


def make_norm(
    z: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    running: Statistics | None,
    activation: str = "none",
) -> Norm:
    """Return the batch norm of rows by running statistics, or by their own ones if None."""
    statistics = running or measure(z)
    real: type[np.floating] = np.float64 if z.dtype is torch.float64 else np.float32
    inverse = 1 / np.sqrt(statistics.variance + eps)
    shift: NDArray[Any] = statistics.mean.astype(real)
    scale = gamma.detach().numpy() * inverse
    offset = beta.detach().numpy() + scale * (shift - statistics.mean)
    vectors = shift, scale.astype(real), offset.astype(real)
    return Norm(statistics, running is None, gamma.detach(), inverse, *vectors, activation)


def apply_norm(z: Tensor, norm: Norm, out: Tensor) -> Tensor:
    """Write activation(norm(z)) to out and return out."""
    kernel = batch_norm.normalise_kernel(norm.activation)
    vectors = norm.shift, norm.scale, norm.offset
    over_images(kernel, len(z), as_array(z), *vectors, as_array(out))
    return out


def add_norm(z: Tensor, norm: Norm, residual: Tensor, factor: Tensor) -> Tensor:
    """Return residual + factor norm(z), with a factor per image."""
    out = reused(*z.shape, dtype=z.dtype)
    vectors = norm.shift, norm.scale, norm.offset
    arrays = as_array(residual), factor.to(compute_dtype(z)).numpy(), as_array(out)
    over_images(batch_norm.add_normalised, len(z), as_array(z), *vectors, *arrays)
    return out


def norm_adjoint(
    z: Tensor, norm: Norm, gradient: Tensor, factor: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of z, gamma and beta, given that of the result.

    Args:
        factor: number per image of `add_norm`.
    """
    values, shift = as_array(z), norm.shift
    du = as_array(gradient)
    if norm.activation != "none":
        # A kernel that writes over its input would not be vectorised.
        behind, du = du, as_array(scratch("du", *z.shape, dtype=z.dtype))
        kernel = batch_norm.activation_adjoint_kernel(norm.activation)
        over_images(kernel, len(z), values, shift, norm.scale, norm.offset, behind, du)
    sums = np.empty((len(z), 2, len(shift)))
    over_images(batch_norm.dots, len(z), du, values, shift, sums)
    factors = np.ones(len(z)) if factor is None else factor.double().numpy()
    dbeta, products = (factors[:, None, None] * sums).sum(axis=0)
    rounding = norm.statistics.mean - shift
    dgamma = norm.inverse * (products - rounding * dbeta)
    p = norm.gamma.numpy() * norm.inverse
    q = r = np.zeros_like(p)
    if norm.training:
        count = values.shape[0] * values.shape[1]
        q = -p * norm.inverse * dgamma / count
        r = -p * dbeta / count - q * rounding
    weights = (vector.astype(shift.dtype) for vector in (p, q, r, factors))
    dz = reused(*z.shape, dtype=z.dtype)
    over_images(batch_norm.blend, len(z), du, values, shift, *weights, as_array(dz))
    dtype = norm.gamma.dtype
    return dz, torch.from_numpy(dgamma).to(dtype), torch.from_numpy(dbeta).to(dtype)
