import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from vigmpi.models.study.vig import Layer, ViG


class ActivationMemory(NamedTuple):
    """Bytes that a forward pass in training saves for its backward pass.

    Attributes:
        fixed: bytes per micro-batch of any size, over all layers.
        image: additional bytes per image, over all layers.
        layer_image: additional bytes per image of the layer that saves most.
    """

    fixed: int
    image: int
    layer_image: int


def activation_memory(model: ViG) -> ActivationMemory:
    """Measure the memory that autograd keeps, with a copy of the model on one and two images.

    The backward passes run too, so that all kernels are compiled afterwards.
    """
    model = copy.deepcopy(model)  # running statistics and gradients will change
    one, two = (
        np.array([_kept_bytes(layer, num_images, model) for layer in model.layers()])
        for num_images in (1, 2)
    )
    image = two - one
    return ActivationMemory(int((one - image).sum()), int(image.sum()), int(image.max()))


def _kept_bytes(layer: Layer, num_images: int, model: ViG) -> int:
    features = torch.zeros(num_images, *model.config.boundary_shape, requires_grad=True)
    # The input is counted as the output of the preceding layer.
    excluded = {tensor.untyped_storage().data_ptr() for tensor in (features, *layer.parameters)}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # Edge lists, which are integers, are shared by all layers and micro-batches.
        if storage.data_ptr() not in excluded and tensor.is_floating_point():
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        keep(output := layer.forward(features, model.graph))
    size = sum(kept.values())
    output.sum().backward()
    return size
