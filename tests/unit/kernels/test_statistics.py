"""Moments and batch norm against torch's autograd in float64, with new random inputs."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vigmpi.graphs.pixel_lattice import PixelLattice
from vigmpi.kernels.statistics import (
    add_moments_adjoint,
    add_normalised,
    moments,
    moments_adjoint,
    normalised_adjoint,
)

OFFSETS = [0.0, 1e4]
GRAPH = PixelLattice(35, 11)  # of two bands


def planes(offset: float = 0.0) -> torch.Tensor:
    return offset + torch.randn(5, 3, GRAPH.num_nodes)


def assert_close(values: torch.Tensor, exact: torch.Tensor) -> None:
    assert values.shape == exact.shape
    assert float((values - exact).abs().max()) < 2e-6 * max(1.0, float(exact.abs().max()))


@pytest.mark.parametrize("offset", OFFSETS)
def test_moments_and_their_gradients_match_float64(offset: float) -> None:
    x = planes(offset)
    m = moments(x, GRAPH)
    flat = x.double().transpose(0, 1).reshape(3, -1).requires_grad_()
    mean = flat.mean(dim=1)
    centred = flat - mean[:, None]
    covariance = centred @ centred.T / flat.shape[1]
    assert m.num_nodes == flat.shape[1]
    np.testing.assert_allclose(m.mean, mean.detach(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(m.covariance, covariance.detach(), rtol=1e-6, atol=1e-6)
    assert torch.equal(m.shift, m.mean.float())

    dmean, dcovariance = torch.randn(3).double(), torch.randn(3, 3).double()
    ((mean * dmean).sum() + (covariance * dcovariance).sum()).backward()
    dx, dout = planes(), planes()
    assert flat.grad is not None
    exact = dx + dout + flat.grad.reshape(3, 5, -1).transpose(0, 1)
    add_moments_adjoint(dx, dout, x, m, dmean, dcovariance, GRAPH.bands)
    assert_close(dx, exact)


@pytest.mark.parametrize("offset", OFFSETS)
def test_an_added_batch_norm_and_its_gradients_match_float64(offset: float) -> None:
    x, y, dout = planes(), planes(offset), planes()
    gamma, beta = torch.rand(3), torch.rand(3)
    leaves = [t.double().requires_grad_() for t in (y, gamma, beta)]
    exact = x + F.batch_norm(leaves[0], None, None, leaves[1], leaves[2], True, 0.0, 1e-5)
    exact.backward(dout.double())

    m, dy = moments(y, GRAPH), torch.empty_like(y)
    assert_close(add_normalised(x, y, m, gamma, beta, 1e-5, GRAPH.bands), exact.detach())
    sums = moments_adjoint(dout, y, m.shift, GRAPH)
    dgamma, dbeta = normalised_adjoint(dout, y, m, sums, gamma, 1e-5, dy, GRAPH.bands)
    for value, leaf in zip((dy, dgamma, dbeta), leaves, strict=True):
        assert leaf.grad is not None
        assert_close(value, leaf.grad)
