"""A ViG as a list of layers: stem, blocks, downsampling convolutions between levels, head."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from vigmpi.models.config import ModelConfig
from vigmpi.models.initialization import generator
from vigmpi.models.layer import Boundary, Layer
from vigmpi.models.vig import fast, reference
from vigmpi.models.vig.block import Block, DropPath, FeedForward, Grapher, conv_norm
from vigmpi.models.vig.ends import Downsample, LinearHead, PerceptronHead, Stem
from vigmpi.models.vig.positions import relative_positions
from vigmpi.models.vig.variant import NeighbourSearch, Variant

_CONVOLUTIONS = {"fast": fast.CONVOLUTIONS, "reference": reference.CONVOLUTIONS}


def vig_layers(
    variant: Variant, config: ModelConfig, *, backend: str = "fast", seed: int = 0
) -> list[Layer]:
    """Return the layers of a ViG. Tensors have the names of the published code.

    Args:
        backend: "fast", or "reference" (plain torch operations).
        seed: seed of the initial weights and of drop path.
    """
    height, width = (side // variant.patch for side in config.image_size)
    maps = [
        Boundary((channels, height >> level, width >> level), channels_last=True)
        for level, channels in enumerate(variant.channels)
    ]
    layers: list[Layer] = []

    def add(
        name: str,
        prefix: str,
        outputs: Boundary,
        make: Callable[[], nn.Module],
        *,
        is_block: bool = False,
        min_images: int = 1,
    ) -> None:
        index = len(layers)
        inputs = layers[-1].outputs if layers else Boundary((3, *config.image_size))

        def build() -> nn.Module:
            return _initialised(make(), variant, generator(seed, index))

        layers.append(Layer(name, build, inputs, outputs, prefix, is_block, min_images=min_images))

    add("stem", "", maps[0], partial(_stem, variant, maps[0]))
    for block in range(variant.num_blocks):
        level = variant.level(block)
        if block > 0 and level > variant.level(block - 1):
            prefix = f"backbone.{block + level - 1}."
            make = partial(_downsample, variant, level, maps[level])
            add(f"downsample {level}", prefix, maps[level], make)
        make = partial(_block, variant, config, block, maps[level], backend, seed)
        add(f"block {block}", f"backbone.{block + level}.", maps[level], make, is_block=True)
    # The norm of the head sees one value per image and channel: it needs two images in training.
    logits = Boundary((config.num_classes,))
    add("head", "prediction.", logits, partial(_head, variant, config), min_images=2)
    return layers


def _activation(variant: Variant) -> type[nn.Module]:
    return nn.ReLU if variant.relu else nn.GELU


def _stem(variant: Variant, outputs: Boundary) -> nn.Module:
    return Stem(variant.stem, outputs.shape, _activation(variant), bias=variant.bias)


def _downsample(variant: Variant, level: int, outputs: Boundary) -> nn.Module:
    return Downsample(variant.channels[level - 1], outputs.shape, bias=variant.bias)


def _block(
    variant: Variant, config: ModelConfig, block: int, features: Boundary, backend: str, seed: int
) -> nn.Module:
    rate = config.drop_path * block / max(variant.num_blocks - 1, 1)
    drop_path = DropPath(rate, seed, block)
    convolution = _CONVOLUTIONS[backend][config.conv]
    grapher = make_grapher(variant, features.shape, variant.search(block), convolution, drop_path)
    channels, height, width = features.shape
    ffn = FeedForward(channels, height * width, _activation(variant), drop_path, bias=variant.bias)
    return Block(grapher, ffn)


def make_grapher(
    variant: Variant,
    shape: tuple[int, ...],
    search: NeighbourSearch,
    convolution: type[nn.Module],
    drop_path: DropPath,
) -> Grapher:
    """Return the first half of a block.

    Args:
        shape: channels, height and width of its features.
        search: parameters of its search, which are limited to the candidates that exist.
    """
    channels, height, width = shape
    num_nodes = height * width
    search = search.among(num_nodes // search.reduction**2)
    positions = None
    if variant.relative_positions:
        positions = relative_positions(height, width, channels, search.reduction)

    def pointwise(inputs: int, outputs: int, num_values: int) -> nn.Sequential:
        layer = conv_norm(inputs, outputs, num_values, groups=variant.groups, bias=variant.bias)
        return layer.append(_activation(variant)())

    graph_conv = convolution(pointwise, channels, num_nodes, search.k)
    return Grapher(channels, num_nodes, graph_conv, search, positions, drop_path, bias=variant.bias)


def _head(variant: Variant, config: ModelConfig) -> nn.Module:
    channels, activation = variant.channels[-1], _activation(variant)
    if variant.hidden is None:
        return LinearHead(channels, config.num_classes, activation)
    return PerceptronHead(channels, variant.hidden, config.num_classes, activation)


def _initialised(module: nn.Module, variant: Variant, stream: torch.Generator) -> nn.Module:
    """Draw the initial weights of convolutions and linear maps; norms and tables stay as they are.

    The published models have Kaiming's normal distribution and no biases; others, torch's own
    distribution, which is uniform.
    """
    for layer in module.modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        if variant.bias:
            assert layer.bias is not None
            nn.init.kaiming_normal_(layer.weight, generator=stream)
            nn.init.zeros_(layer.bias)
            continue
        bound = layer.weight[0].numel() ** -0.5
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -bound, bound, stream)
    return module
