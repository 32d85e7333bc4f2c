import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from vigmpi.models.layer import Layer, MicroBatch
from vigmpi.models.model import Model


class ActivationMemory(NamedTuple):
    """Bytes that a forward pass in training saves for its backward pass.

    Attributes:
        fixed: bytes per micro-batch of any size, over all layers.
        image: additional bytes per image, over all layers.
        layer_image: additional bytes per image of the layer that saves most.
        peak_image: largest sum of the additional bytes per image up to a layer, which counts twice,
            together with what it computes again. It needs about as much working memory as that.
    """

    fixed: int
    image: int
    layer_image: int
    peak_image: int


def activation_memory(model: Model) -> ActivationMemory:
    """Measure the memory that autograd keeps, with a copy of the model on two and three images.

    The backward passes run too, so that all kernels are compiled afterwards.
    """
    model = copy.deepcopy(model)  # running statistics and gradients will change
    pairs = list(zip(model.layers, model.layer_modules, strict=True))
    two, three = (
        np.array([_kept_bytes(layer, module, num_images) for layer, module in pairs])
        for num_images in (2, 3)
    )
    image = three - two
    recomputed = np.array([layer.recomputed_bytes for layer in model.layers])
    peak = (np.cumsum(image) + image + 2 * recomputed).max()
    return ActivationMemory(
        int((two - 2 * image).sum()), int(image.sum()), int(image.max()), int(peak)
    )


def _kept_bytes(layer: Layer, module: nn.Module, num_images: int) -> int:
    zeros = torch.zeros(num_images, *layer.inputs.shape, dtype=layer.inputs.dtype)
    features = layer.inputs.conform(zeros).requires_grad_()
    # The input is counted as the output of the preceding layer.
    tensors = (features, *module.parameters())
    excluded = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in excluded:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        keep(output := module(features, MicroBatch(np.arange(num_images), 0)))
    size = sum(kept.values())
    output.sum().backward()
    return size
