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
    if matmul == "onednn" and x.dtype is torch.float32:
        return onednn_product(x, weight, groups)
    parts = (part.T for part in weight.chunk(groups))
    return _products(x, parts, groups, None, len(weight))


def product_adjoint(
    gradient: Tensor, weight: Tensor, groups: int, matmul: str, out: Tensor | None = None
) -> Tensor:
    """Return the gradient of x, given that of the product; see there.

    Args:
        out: memory that "blas" uses for the result.
    """
    if matmul == "onednn" and gradient.dtype is torch.float32:
        adjoint = weight.unflatten(0, (groups, -1)).mT.flatten(0, 1)
        return onednn_product(gradient, adjoint, groups)
    return _products(gradient, weight.chunk(groups), groups, out, groups * weight.shape[1])


def _products(
    x: Tensor, parts: Iterable[Tensor], groups: int, out: Tensor | None, outputs: int
) -> Tensor:
    if out is None:
        out = reused(*x.shape[:2], outputs, dtype=x.dtype)
    columns = out.flatten(0, 1).chunk(groups, dim=1)
    values = x.flatten(0, 1).chunk(groups, dim=1)
    for target, left, right in zip(columns, values, parts, strict=True):
        torch.mm(left, right, out=target)
    return out


def onednn_product(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    image = x[:, :, None].permute(0, 3, 1, 2)  # channels-last
    kernel, padding, ones = weight[:, :, None, None], [0, 0], [1, 1]
    convolve = torch.ops.aten.mkldnn_convolution
    out: Tensor = convolve(image, kernel, None, padding, ones, ones, groups)
    return out.permute(0, 2, 3, 1).contiguous().flatten(1, 2)


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
