"""Layers of a ViG that are not blocks: stem, downsampling between levels, heads."""

from collections.abc import Sequence
from math import prod
from typing import Protocol

import torch
from torch import Tensor, nn

from vigmpi.models.layer import MicroBatch
from vigmpi.models.normalization import Conv2dBeforeNorm, MicroBatchNorm
from vigmpi.models.vig.backend import ConvNorm


class MakeStrided(Protocol):
    """Function that returns a 3x3 convolution and its batch norm, over `num_pixels` per image."""

    def __call__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        num_pixels: int,
        *,
        activation: str = "none",
    ) -> ConvNorm: ...


class Stem(nn.Module):
    """3x3 convolutions from the image to the nodes, and a learned table of positions.

    Args:
        convolutions: output channels and stride of each convolution.
        shape: channels, height and width of the map of nodes.
        strided: function that returns the convolutions.
        activation: activation of all but the last.
        bf16: true if features are bfloat16 from here on.
    """

    def __init__(
        self,
        convolutions: Sequence[tuple[int, int]],
        shape: tuple[int, ...],
        strided: MakeStrided,
        activation: str,
        *,
        bf16: bool,
    ) -> None:
        super().__init__()
        self._bf16 = bf16
        self.pos_embed = nn.Parameter(torch.zeros(1, *shape))
        num_nodes = shape[1] * shape[2]
        layers: list[ConvNorm] = []
        inputs = 3
        for index, (outputs, stride) in enumerate(convolutions):
            side = prod(later for _, later in convolutions[index + 1 :])
            last = index == len(convolutions) - 1
            name = "none" if last else activation
            layers.append(strided(inputs, outputs, stride, num_nodes * side**2, activation=name))
            inputs = outputs
        self.convolutions = tuple(layers)  # registered by the names of the published code
        modules = {
            str(3 * index + offset): module
            for index, layer in enumerate(layers)
            for offset, module in enumerate(layer)
        }
        self.stem = nn.ModuleDict({"convs": nn.ModuleDict(modules)})

    def forward(self, features: Tensor, micro_batch: MicroBatch) -> Tensor:  # noqa: ARG002
        """Map images [images, 3, height, width] to [images, channels, height, width] of nodes."""
        if self._bf16:
            features = features.bfloat16()
        for layer in self.convolutions:
            features = layer(features)
        return features + self.pos_embed.to(features.dtype)


class Downsample(nn.Module):
    """3x3 convolution of stride 2.

    Args:
        shape: channels, height and width of its output.
    """

    def __init__(self, channels: int, shape: tuple[int, ...], strided: MakeStrided) -> None:
        super().__init__()
        self.conv = strided(channels, shape[0], 2, shape[1] * shape[2])

    def forward(self, features: Tensor, micro_batch: MicroBatch) -> Tensor:  # noqa: ARG002
        """Map features [images, channels, 2 height, 2 width] to [images, *shape]."""
        return self.conv(features)


class ResidualConvolutions(nn.Module):
    """Two 3x3 convolutions with a residual connection (He et al., CVPR 2016).

    As in a block, no activation follows the sum.
    """

    def __init__(
        self, channels: int, num_nodes: int, strided: MakeStrided, activation: str
    ) -> None:
        super().__init__()
        self.conv1 = strided(channels, channels, 1, num_nodes, activation=activation)
        self.conv2 = strided(channels, channels, 1, num_nodes)

    def forward(self, features: Tensor, micro_batch: MicroBatch) -> Tensor:  # noqa: ARG002
        """Map features [images, channels, height, width] to the same shape."""
        return features + self.conv2(self.conv1(features))


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
        dtype = next(self.parameters()).dtype
        pooled = features.mean(dim=(2, 3), keepdim=True, dtype=dtype)
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
        pooled = features.mean(dim=(2, 3), dtype=self.linear.weight.dtype)
        return self.linear(self.act(self.norm(pooled)))
