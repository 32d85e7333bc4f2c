"""Products of feature rows [images, nodes, channels] with the weights of 1x1 convolutions."""

from collections.abc import Iterable

import torch
from torch import Tensor


def product(x: Tensor, weight: Tensor, groups: int, out: Tensor) -> Tensor:
    """Write each node's weight @ x to out [images, nodes, outputs] and return out.

    Args:
        x: contiguous rows [images, nodes, channels].
        weight: [outputs, channels / groups].
    """
    parts = (part.T for part in weight.chunk(groups))
    return _products(x, parts, groups, out)


def product_adjoint(gradient: Tensor, weight: Tensor, groups: int, out: Tensor) -> Tensor:
    """Write the gradient of x, given that of the product, to out and return out."""
    return _products(gradient, weight.chunk(groups), groups, out)


def _products(x: Tensor, parts: Iterable[Tensor], groups: int, out: Tensor) -> Tensor:
    columns = out.flatten(0, 1).chunk(groups, dim=1)
    values = x.flatten(0, 1).chunk(groups, dim=1)
    for target, left, right in zip(columns, values, parts, strict=True):
        torch.mm(left, right, out=target)
    return out


def weight_adjoint(gradient: Tensor, x: Tensor, groups: int) -> Tensor:
    """Return the gradient of the weight."""
    columns = x.shape[2] // groups
    dweight = x.new_empty(gradient.shape[2], columns)
    pairs = zip(
        dweight.chunk(groups),
        gradient.flatten(0, 1).chunk(groups, dim=1),
        x.flatten(0, 1).chunk(groups, dim=1),
        strict=True,
    )
    for target, left, right in pairs:
        torch.mm(left.T, right, out=target)
    return dweight
