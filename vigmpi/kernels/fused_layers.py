"""Differentiable 1x1 convolutions, batch norms and activations on channels-last maps.

A layer's batch norm and activation are computed when the next 1x1 convolution reads them, and again
in its backward pass, so that normalised and activated features are not kept in between.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vigmpi.kernels.arrays import as_map, rows
from vigmpi.kernels.norm_activation import Norm, add_norm, apply_norm, norm_adjoint
from vigmpi.kernels.pointwise import product, product_adjoint, weight_adjoint
from vigmpi.kernels.scratch import reused, scratch


def pointwise(features: Tensor, weight: Tensor, groups: int, matmul: str) -> Tensor:
    """Return the 1x1 convolution of a map.

    Args:
        weight: [outputs, channels / groups], rounded to the type of the map for the product.
        matmul: library; see `pointwise.product`.
    """
    return _Pointwise.apply(features, weight, groups, matmul)


def pointwise_of_norm(
    z: Tensor, gamma: Tensor, beta: Tensor, norm: Norm, weight: Tensor, groups: int, matmul: str
) -> Tensor:
    """Return the 1x1 convolution of activation(norm(z)); only z is kept for the backward pass.

    Args:
        gamma, beta: weight and bias of the norm, which get its gradients.
    """
    return _PointwiseOfNorm.apply(z, gamma, beta, weight, norm, groups, matmul)


def activated_norm(z: Tensor, gamma: Tensor, beta: Tensor, norm: Norm) -> Tensor:
    """Return activation(norm(z))."""
    return _ActivatedNorm.apply(z, gamma, beta, norm)


def add_to_residual(
    residual: Tensor, z: Tensor, gamma: Tensor, beta: Tensor, norm: Norm, factor: Tensor | None
) -> Tensor:
    """Return residual + factor norm(z).

    Args:
        norm: norm without an activation.
        factor: number per image, [images]; None stands for 1.
    """
    if norm.activation != "none":
        raise ValueError(f"activation {norm.activation} of a branch that is added to a residual")
    return _AddToResidual.apply(residual, z, gamma, beta, norm, factor)


class _Pointwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, groups: int, matmul: str) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.fixed = groups, matmul
        return as_map(product(rows(features), weight.to(features.dtype), groups, matmul), features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        groups, matmul = ctx.fixed
        g = rows(gradient)
        dx = product_adjoint(g, weight.to(g.dtype), groups, matmul)
        dweight = weight_adjoint(g, rows(features), groups).to(weight.dtype)
        return as_map(dx, features), dweight, None, None


class _PointwiseOfNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        gamma: Tensor,  # noqa: ARG004
        beta: Tensor,  # noqa: ARG004
        weight: Tensor,
        norm: Norm,
        groups: int,
        matmul: str,
    ) -> Tensor:
        ctx.save_for_backward(z, weight)
        ctx.fixed = norm, groups, matmul
        values = rows(z)
        h = apply_norm(values, norm, _like("activated", values))
        return as_map(product(h, weight.to(z.dtype), groups, matmul), z)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        z, weight = ctx.saved_tensors
        norm, groups, matmul = ctx.fixed
        values, g = rows(z), rows(gradient)
        h = apply_norm(values, norm, _like("activated", values))
        dweight = weight_adjoint(g, h, groups).to(weight.dtype)
        dh = product_adjoint(g, weight.to(g.dtype), groups, matmul, _like("gradient", values))
        dz, dgamma, dbeta = norm_adjoint(values, norm, dh)
        return as_map(dz, z), dgamma, dbeta, dweight, None, None, None


class _ActivatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        gamma: Tensor,  # noqa: ARG004
        beta: Tensor,  # noqa: ARG004
        norm: Norm,
    ) -> Tensor:
        ctx.save_for_backward(z)
        ctx.norm = norm
        values = rows(z)
        return as_map(apply_norm(values, norm, reused(*values.shape, dtype=values.dtype)), z)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        [z] = ctx.saved_tensors
        dz, dgamma, dbeta = norm_adjoint(rows(z), ctx.norm, rows(gradient))
        return as_map(dz, z), dgamma, dbeta, None


class _AddToResidual(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        residual: Tensor,
        z: Tensor,
        gamma: Tensor,  # noqa: ARG004
        beta: Tensor,  # noqa: ARG004
        norm: Norm,
        factor: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(z)
        ctx.fixed = norm, factor
        factors = torch.ones(len(z)) if factor is None else factor
        return as_map(add_norm(rows(z), norm, rows(residual), factors), z)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        [z] = ctx.saved_tensors
        norm, factor = ctx.fixed
        # The gradient of the head is not channels-last; those of all residuals would follow it.
        dout = rows(gradient)
        dz, dgamma, dbeta = norm_adjoint(rows(z), norm, dout, factor)
        return as_map(dout, z), as_map(dz, z), dgamma, dbeta, None, None


def _like(name: str, values: Tensor) -> Tensor:
    return scratch(name, *values.shape, dtype=values.dtype)
