import copy
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from vigmpi.model.vig import ViG


class ImageMemory(NamedTuple):
    """Bytes that training takes for an image.

    Attributes:
        kept: from its forward to its backward, for all parts.
        kept_by_part: the most that one part keeps.
    """

    kept: int
    kept_by_part: int


def image_memory(model: ViG) -> ImageMemory:
    """Measure what autograd keeps of one image, by running each part of a copy on one."""
    model = copy.deepcopy(model)  # running statistics will change
    features = torch.zeros(1, *model.config.boundary_shape)
    sizes = []
    for part in model.parts():
        kept: dict[int, int] = {}
        own = {p.untyped_storage().data_ptr() for p in part.parameters}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own and tensor.is_floating_point():
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            features = part.forward(features.detach().requires_grad_(), model.graph)
            keep(features)
        sizes.append(sum(kept.values()))
    return ImageMemory(sum(sizes), max(sizes))
