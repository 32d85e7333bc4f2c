import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from vigmpi.models.study.vig import Layer, ViG


class ActivationMemory(NamedTuple):
    """Bytes that a training forward keeps until its backward.

    Attributes:
        fixed: for a micro-batch of any size, over all layers.
        image: more for each of its images, over all layers.
        part_image: the most that one layer keeps of an image.
    """

    fixed: int
    image: int
    part_image: int


def activation_memory(model: ViG) -> ActivationMemory:
    """Measure what autograd keeps, by running each layer of a copy on one and on two images.

    Backward too, so that what is compiled on first use is compiled now.
    """
    model = copy.deepcopy(model)  # running statistics and gradients will change
    one, two = (
        np.array([_kept_bytes(layer, images, model) for layer in model.layers()])
        for images in (1, 2)
    )
    image = two - one
    return ActivationMemory(int((one - image).sum()), int(image.sum()), int(image.max()))


def _kept_bytes(layer: Layer, images: int, model: ViG) -> int:
    features = torch.zeros(images, *model.config.boundary_shape, requires_grad=True)
    # The input is the output of the layer before, and is counted there.
    others = {tensor.untyped_storage().data_ptr() for tensor in (features, *layer.parameters)}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # Edge lists are integers, and shared by all layers and micro-batches.
        if storage.data_ptr() not in others and tensor.is_floating_point():
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        keep(output := layer.forward(features, model.graph))
    size = sum(kept.values())
    output.sum().backward()
    return size
