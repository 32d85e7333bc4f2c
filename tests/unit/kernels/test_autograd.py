"""Compiled kernels against numpy twins in float64, with new random inputs in every run."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import ndtr
from torch import Tensor

from vigmpi.graphs.pixel_lattice import PixelLattice
from vigmpi.kernels.autograd import HalfBlock, Norm, apply_hidden_layer, block
from vigmpi.kernels.hidden_layer import HiddenLayer
from vigmpi.kernels.statistics import Moments

Array = NDArray[np.float64]

# images, height, width, channels, hidden, outputs: full and partial blocks and tiles
SHAPES = [
    (3, 32, 32, 3, 256, 3),
    (9, 7, 5, 3, 13, 3),
    # Kernels of other widths are compiled for the next two.
    pytest.param((2, 30, 20, 2, 40, 4), marks=pytest.mark.slow),
    pytest.param((1, 1, 3, 1, 1, 1), marks=pytest.mark.slow),
]


def dense_features(x: Array, height: int, width: int) -> Array:
    pixels = np.array([(i, j) for i in range(height) for j in range(width)])
    adjacency = (abs(pixels[:, None] - pixels).max(axis=2) == 1).astype(float)
    degree = np.broadcast_to(adjacency.sum(axis=0), (len(x), 1, len(pixels)))
    return np.concatenate([x @ adjacency, x, degree], axis=1)


def twin(f: Array, a: Array, b: Array, v: Array, c: Array) -> Array:
    z = np.einsum("hk,ikn->ihn", a, f) + b[:, None]
    return np.einsum("ho,ihn->ion", v, z * ndtr(z)) + c[:, None]


def twin_gradients(f: Array, a: Array, b: Array, v: Array, dy: Array) -> tuple[Array, ...]:
    z = np.einsum("hk,ikn->ihn", a, f) + b[:, None]
    slope = ndtr(z) + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    dz = np.einsum("ho,ion->ihn", v, dy) * slope
    df, da = np.einsum("hk,ihn->ikn", a, dz), np.einsum("ihn,ikn->hk", dz, f)
    return df, da, dz.sum(axis=(0, 2)), np.einsum("ihn,ion->ho", z * ndtr(z), dy)


def inputs(shape: tuple[int, ...], *, lattice: bool) -> list[torch.Tensor]:
    """Return x, shift, a, b, v, c, dy, in fp32."""
    num_images, height, width, channels, hidden, outputs = shape
    num_nodes, features = height * width, 2 * channels + 1 if lattice else channels
    x = 3 + torch.randn(num_images, channels, num_nodes)
    dy = torch.randn(num_images, outputs, num_nodes)
    a, b = torch.randn(hidden, features) / 4, torch.randn(hidden)
    v, c = torch.randn(hidden, outputs) / hidden**0.5, torch.randn(outputs)
    return [x, x.mean(dim=(0, 2)), a, b, v, c, dy]


def assert_close(values: torch.Tensor, expected: Array) -> None:
    """Compare to fp32 precision: sums of terms of about 1 may cancel."""
    assert abs(values.numpy() - expected).max() < 2e-6 * max(1, abs(expected).max())


@pytest.mark.parametrize("lattice", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_hidden_layer_and_its_gradients_match_the_twin(
    shape: tuple[int, ...], lattice: bool, dtype: torch.dtype
) -> None:
    fp32 = inputs(shape, lattice=lattice)
    x, shift, a, b, v, c, dy = (t.to(dtype, copy=True) for t in fp32)
    for tensor in (x, a, b, v):
        tensor.requires_grad_()
    y = apply_hidden_layer(
        x, HiddenLayer(shift, a, b, v, c, lattice), PixelLattice(shape[1], shape[2])
    )
    y.backward(dy)

    x_, shift_, a_, b_, v_, c_, dy_ = (t.double().numpy() for t in fp32)
    centred = x_ - shift_[:, None]
    f = dense_features(centred, *shape[1:3]) if lattice else centred
    assert_close(y.detach(), twin(f, a_, b_, v_, c_))
    df, da, db, dv = twin_gradients(f, a_, b_, v_, dy_)
    channels = shape[3]
    if lattice:  # the adjacency is its own adjoint; the degree is constant
        df = dense_features(df[:, :channels], *shape[1:3])[:, :channels] + df[:, channels:-1]
    for tensor, expected in zip((x, a, b, v), (df, da, db, dv), strict=True):
        assert tensor.grad is not None
        assert_close(tensor.grad, expected)


def test_fp32_errors_are_a_few_roundings_of_the_sum_of_absolute_terms() -> None:
    """The bound does not depend on the processor; torch's own operations reach a third of it."""
    fp32 = inputs((8, 32, 32, 3, 512, 3), lattice=False)
    results = []
    for dtype in (torch.float32, torch.float64):
        x, shift, a, b, v, c, dy = (tensor.to(dtype, copy=True) for tensor in fp32)
        for leaf in (leaves := [x, a, b, v]):
            leaf.requires_grad_()
        y = apply_hidden_layer(x, HiddenLayer(shift, a, b, v, c), PixelLattice(32, 32))
        y.backward(dy)
        results.append([y.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)])
    x, a, b, v = (leaf.detach() for leaf in leaves)
    f, dh = (x - shift[:, None]).abs(), v.abs() @ dy.abs()
    z = a.abs() @ f + b.abs()[:, None]
    sums = [
        v.abs().T @ z + c.abs()[:, None],
        a.abs().T @ dh,
        torch.einsum("ihn,ifn->hf", dh, f),
        dh.sum(dim=(0, 2)),
        torch.einsum("ihn,ion->ho", z, dy.abs()),
    ]
    for value, exact, absolute in zip(*results, sums, strict=True):
        assert ((value - exact).abs() / absolute).max() < 6 * 2.0**-24


@pytest.mark.parametrize("lattice", [True, False])
def test_results_are_bitwise_identical_for_any_number_of_threads(lattice: bool) -> None:
    x, _, a, b, v, c, dy = inputs((19, 32, 32, 3, 24, 3), lattice=lattice)
    graph = PixelLattice(32, 32)
    norm = Norm(torch.rand(3), torch.rand(3), 1e-5)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            leaves = [t.clone().requires_grad_() for t in (x, a, b, v)]
            x_, a_, b_, v_ = leaves

            def collapse(m: Moments, a: Tensor = a_, b: Tensor = b_) -> tuple[Tensor, Tensor]:
                return a * (m.mean.sum() + m.covariance.mean()).float(), b

            half = HalfBlock(collapse, [a_, b_], (v_, c), norm, lattice)
            y, [moments] = block(x_, [half], graph)
            y.backward(dy)
            results.append([y.detach(), *(leaf.grad for leaf in leaves), *moments[1:]])
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        for value, first in zip(result, results[0], strict=True):
            assert value is not None
            assert first is not None
            assert torch.equal(value, first)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("index", range(6))
def test_non_finite_values_propagate(bad: float, index: int) -> None:
    """Plant a value in x, a, b, v, c or dy."""
    tensors = inputs((2, 6, 5, 3, 16, 3), lattice=True)
    del tensors[1]
    tensors[index].view(-1)[-1] = bad
    x, a, b, v, c, dy = tensors
    for leaf in (x, a, b, v):
        leaf.requires_grad_()
    y = apply_hidden_layer(x, HiddenLayer(torch.zeros(3), a, b, v, c, True), PixelLattice(6, 5))
    y.backward(dy)
    if index < 5:
        assert not torch.isfinite(y).all()
    else:
        assert x.grad is not None
        assert v.grad is not None
        assert not torch.isfinite(x.grad).all()
        assert not torch.isfinite(v.grad).all()
