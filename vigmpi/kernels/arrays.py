"""Feature maps as arrays for compiled kernels."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def rows(features: Tensor) -> Tensor:
    """Return a map [images, channels, height, width] as [images, nodes, channels], contiguous.

    Nothing is copied if the map is channels-last.
    """
    return features.detach().permute(0, 2, 3, 1).contiguous().flatten(1, 2)


def as_map(values: Tensor, like: Tensor) -> Tensor:
    """Return rows [images, nodes, channels] as a channels-last map with the nodes of `like`."""
    return values.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)


def as_array(tensor: Tensor) -> NDArray[Any]:
    """Return the tensor's memory as an array; bfloat16 as uint16."""
    return (tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor).numpy()


def compute_dtype(features: Tensor) -> torch.dtype:
    """Return the type in which kernels compute: float32 for bfloat16."""
    return torch.float32 if features.dtype is torch.bfloat16 else features.dtype
