import copy
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from vigmpi.model.graph import PixelLattice
from vigmpi.model.vig import Part, ViG


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
        features, size = _run(part, features.detach().requires_grad_(), model.graph)
        sizes.append(size)
    return ImageMemory(sum(sizes), max(sizes))


def _run(part: Part, features: Tensor, graph: PixelLattice) -> tuple[Tensor, int]:
    """A part's output, and the bytes that are kept for its backward, output included."""
    weights = {p.untyped_storage().data_ptr() for p in part.parameters}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # Edge lists are integers, and shared by all parts and micro-batches.
        if storage.data_ptr() not in weights and tensor.is_floating_point():
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        keep(output := part.forward(features, graph))
    return output, sum(kept.values())
