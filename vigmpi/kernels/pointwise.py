"""Products of feature rows [images, nodes, channels] with the weights of 1x1 convolutions.

"blas" stands for torch's matrix products: MKL's in fp32 on x86, oneDNN's in bfloat16. "onednn"
computes fp32 products as 1x1 convolutions of oneDNN. The gradient of the weights, a sum over all
nodes, is always a matrix product.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from vigmpi.kernels.scratch import reused


def product(x: Tensor, weight: Tensor, groups: int, matmul: str) -> Tensor:
    """Return each node's weight @ x, [images, nodes, outputs].

    Args:
        x: contiguous rows [images, nodes, channels].
        weight: [outputs, channels / groups].
        matmul: "blas" or "onednn".
    """
    out = reused(*x.shape[:2], len(weight), dtype=x.dtype)
    if matmul == "onednn" and x.dtype is torch.float32:
        return onednn_product(x, weight, groups, out)
    return _products(x, (part.T for part in weight.chunk(groups)), groups, out)


def product_adjoint(
    gradient: Tensor, weight: Tensor, groups: int, matmul: str, out: Tensor | None = None
) -> Tensor:
    """Return the gradient of x, given that of the product; see there.

    Args:
        out: memory for the result.
    """
    if out is None:
        out = reused(*gradient.shape[:2], groups * weight.shape[1], dtype=gradient.dtype)
    if matmul == "onednn" and gradient.dtype is torch.float32:
        adjoint = weight.unflatten(0, (groups, -1)).mT.flatten(0, 1).contiguous()
        return onednn_product(gradient, adjoint, groups, out)
    return _products(gradient, weight.chunk(groups), groups, out)


def _products(x: Tensor, parts: Iterable[Tensor], groups: int, out: Tensor) -> Tensor:
    columns = out.flatten(0, 1).chunk(groups, dim=1)
    values = x.flatten(0, 1).chunk(groups, dim=1)
    for target, left, right in zip(columns, values, parts, strict=True):
        torch.mm(left, right, out=target)
    return out


def onednn_product(x: Tensor, weight: Tensor, groups: int, out: Tensor) -> Tensor:
    # Of torch's convolutions of oneDNN, only the one that adds to its result writes to given
    # memory. Page faults of fresh memory would take longer than the zeros.
    image, result = (rows[:, :, None].permute(0, 3, 1, 2) for rows in (x, out.zero_()))
    kernel, padding, ones = weight[:, :, None, None], [0, 0], [1, 1]
    add_convolution = torch.ops.mkldnn._convolution_pointwise_.binary
    fixed = None, padding, ones, ones, groups
    add_convolution(result, image, kernel, *fixed, "add", None, None, [], None)
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
