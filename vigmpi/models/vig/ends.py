"""Layers of a ViG that are not blocks: stem, downsampling between levels, heads."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vigmpi.models.layer import MicroBatch
from vigmpi.models.normalization import Conv2dBeforeNorm, MicroBatchNorm


def _strided(channels: int, outputs: int, stride: int, num_pixels: int, bias: bool) -> list:
    """Return a 3x3 convolution and its batch norm, over this number of output pixels."""
    conv = Conv2dBeforeNorm(channels, outputs, 3, stride, padding=1, bias=bias)
    return [conv, MicroBatchNorm(outputs, num_pixels)]


class Stem(nn.Module):
    """3x3 convolutions from the image to the nodes, and a learned table of positions.

    Args:
        convolutions: output channels and stride of each convolution.
        shape: channels, height and width of the map of nodes.
    """

    def __init__(
        self,
        convolutions: Sequence[tuple[int, int]],
        shape: tuple[int, ...],
        activation: type[nn.Module],
        *,
        bias: bool,
    ) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, *shape))
        num_nodes = shape[1] * shape[2]
        modules: list[nn.Module] = []
        inputs = 3
        for index, (outputs, stride) in enumerate(convolutions):
            if index > 0:
                modules.append(activation())
            later_strides = [later for _, later in convolutions[index + 1 :]]
            side = int(np.prod(later_strides, dtype=int))
            modules += _strided(inputs, outputs, stride, num_nodes * side**2, bias)
            inputs = outputs
        self.stem = nn.ModuleDict({"convs": nn.Sequential(*modules)})

    def forward(self, features: Tensor, micro_batch: MicroBatch) -> Tensor:  # noqa: ARG002
        """Map images [images, 3, height, width] to [images, channels, height, width] of nodes."""
        return self.stem["convs"](features) + self.pos_embed


class Downsample(nn.Module):
    """3x3 convolution of stride 2.

    Args:
        shape: channels, height and width of its output.
    """

    def __init__(self, channels: int, shape: tuple[int, ...], *, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Sequential(*_strided(channels, shape[0], 2, shape[1] * shape[2], bias))

    def forward(self, features: Tensor, micro_batch: MicroBatch) -> Tensor:  # noqa: ARG002
        """Map features [images, channels, 2 height, 2 width] to [images, *shape]."""
        return self.conv(features)


class PerceptronHead(nn.Module):
    """Mean over the nodes, then a perceptron with one hidden layer."""

    def __init__(
        self, channels: int, hidden: int, num_classes: int, activation: type[nn.Module]
    ) -> None:
        super().__init__()
        layers = {
            "0": Conv2dBeforeNorm(channels, hidden, 1),
            "1": MicroBatchNorm(hidden, 1),
            "2": activation(),
            "4": nn.Conv2d(hidden, num_classes, 1),  # 3 is dropout in the published code
        }
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, features: Tensor, micro_batch: MicroBatch) -> Tensor:  # noqa: ARG002
        """Map features [images, channels, height, width] to logits [images, classes]."""
        pooled = features.mean(dim=(2, 3), keepdim=True)
        for layer in self.children():
            pooled = layer(pooled)
        return pooled.flatten(1)


class LinearHead(nn.Module):
    """Mean over the nodes, batch norm, activation and a linear layer."""

    def __init__(self, channels: int, num_classes: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.norm = MicroBatchNorm(channels, 1)
        self.act = activation()
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, features: Tensor, micro_batch: MicroBatch) -> Tensor:  # noqa: ARG002
        """Map features [images, channels, height, width] to logits [images, classes]."""
        return self.linear(self.act(self.norm(features.mean(dim=(2, 3)))))
