import torch
from torch import Tensor

from vigmpi.models.model import Model

_ALIGNMENT = 16  # in values: buckets start at cache lines


def gradient_buckets(model: Model) -> list[Tensor]:
    """Make the `.grad` of each trainable parameter a view of its layer's slice of one flat tensor.

    Returns:
        The slice of each layer, all zeros; empty for a layer without trainable parameters.
    """
    by_layer = [
        [parameter for parameter in module.parameters() if parameter.requires_grad]
        for module in model.layer_modules
    ]
    sizes = [sum(p.numel() for p in parameters) for parameters in by_layer]
    strides = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes]
    dtypes = {parameter.dtype for parameters in by_layer for parameter in parameters}
    flat = torch.zeros(sum(strides), dtype=dtypes.pop() if dtypes else None)
    buckets = [padded[:size] for padded, size in zip(flat.split(strides), sizes, strict=True)]
    for parameters, bucket in zip(by_layer, buckets, strict=True):
        views = bucket.split([p.numel() for p in parameters])
        for parameter, view in zip(parameters, views, strict=True):
            parameter.grad = view.view_as(parameter)
    return buckets
