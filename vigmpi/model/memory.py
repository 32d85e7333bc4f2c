import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from vigmpi.model.vig import Part, ViG


class TapeMemory(NamedTuple):
    """Bytes that a training forward keeps until its backward.

    Attributes:
        fixed: for a micro-batch of any size, over all parts.
        image: more for each of its images, over all parts.
        part_image: the most that one part keeps of an image.
    """

    fixed: int
    image: int
    part_image: int


def tape_memory(model: ViG) -> TapeMemory:
    """Measure what autograd keeps, by running each part of a copy on one and on two images.

    Backward too, so that what is compiled on first use is compiled now.
    """
    model = copy.deepcopy(model)  # running statistics and gradients will change
    one, two = (
        np.array([_kept_bytes(part, images, model) for part in model.parts()]) for images in (1, 2)
    )
    image = two - one
    return TapeMemory(int((one - image).sum()), int(image.sum()), int(image.max()))


def _kept_bytes(part: Part, images: int, model: ViG) -> int:
    features = torch.zeros(images, *model.config.boundary_shape, requires_grad=True)
    # The input is the output of the part before, and is counted there.
    others = {tensor.untyped_storage().data_ptr() for tensor in (features, *part.parameters)}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # Edge lists are integers, and shared by all parts and micro-batches.
        if storage.data_ptr() not in others and tensor.is_floating_point():
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        keep(output := part.forward(features, model.graph))
    size = sum(kept.values())
    output.sum().backward()
    return size
