"""A ViG as a list of layers: stem, levels of residual convolutions and blocks, head."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from vigmpi.models.config import ModelConfig
from vigmpi.models.initialization import generator
from vigmpi.models.layer import Boundary, Layer
from vigmpi.models.normalization import Conv2dBeforeNorm, MicroBatchNorm
from vigmpi.models.vig import fast, reference
from vigmpi.models.vig.backend import Backend, ConvNorm
from vigmpi.models.vig.block import Block, DropPath, FeedForward, Grapher
from vigmpi.models.vig.ends import (
    Downsample,
    LinearHead,
    PerceptronHead,
    ResidualConvolutions,
    Stem,
)
from vigmpi.models.vig.positions import relative_positions
from vigmpi.models.vig.variant import NeighbourSearch, Variant

OPERATIONS = {"fast": fast.BACKEND, "reference": reference.BACKEND}


def vig_layers(
    variant: Variant, config: ModelConfig, *, backend: str = "fast", seed: int = 0
) -> list[Layer]:
    """Return the layers of a ViG. Tensors have the names of the published code.

    Args:
        backend: "fast", or "reference" (plain torch operations).
        seed: seed of the initial weights and of drop path.
    """
    operations = OPERATIONS[backend]._replace(matmul=config.matmul)
    bf16 = config.precision == "bf16"
    dtype = torch.bfloat16 if bf16 else torch.get_default_dtype()
    height, width = (side // variant.patch for side in config.image_size)
    maps = [
        Boundary((channels, height >> level, width >> level), dtype, channels_last=True)
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

    add("stem", "", maps[0], partial(make_stem, variant, maps[0].shape, operations, bf16=bf16))
    block = 0
    for level, num_blocks in enumerate(variant.blocks):
        if level > 0:
            prefix = f"backbone.{block + level - 1}."
            inputs, outputs = maps[level - 1].shape[0], maps[level].shape
            make = partial(make_downsample, variant, inputs, outputs, operations)
            add(f"downsample {level}", prefix, maps[level], make)
        for index in range(variant.residuals[level] if variant.residuals else 0):
            make = partial(make_residual, variant, maps[level].shape, operations)
            name, prefix = f"residual {level}.{index}", f"residuals.{level}.{index}."
            add(name, prefix, maps[level], make, is_block=True)
        for _ in range(num_blocks):
            make = partial(_block, variant, config, block, maps[level], operations, seed)
            add(f"block {block}", f"backbone.{block + level}.", maps[level], make, is_block=True)
            block += 1
    # The norm of the head sees one value per image and channel: it needs two images in training.
    logits = Boundary((config.num_classes,))
    add("head", "prediction.", logits, partial(_head, variant, config), min_images=2)
    return layers


def _activation(variant: Variant) -> str:
    return "relu" if variant.relu else "gelu"


def make_stem(
    variant: Variant, shape: tuple[int, ...], backend: Backend, *, bf16: bool = False
) -> nn.Module:
    """Return a stem.

    Args:
        shape: channels, height and width of its output.
        bf16: true if the features are bfloat16 from here on.
    """
    strided = partial(_strided, variant, backend)
    return Stem(variant.stem, shape, strided, _activation(variant), bf16=bf16)


def make_downsample(
    variant: Variant, channels: int, shape: tuple[int, ...], backend: Backend
) -> nn.Module:
    """Return a convolution between two levels.

    Args:
        channels: number of channels of its input.
        shape: channels, height and width of its output.
    """
    return Downsample(channels, shape, partial(_strided, variant, backend))


def make_residual(variant: Variant, shape: tuple[int, ...], backend: Backend) -> nn.Module:
    """Return two convolutions with a residual connection.

    Args:
        shape: channels, height and width of their features.
    """
    channels, height, width = shape
    strided = partial(_strided, variant, backend)
    return ResidualConvolutions(channels, height * width, strided, _activation(variant))


def _strided(
    variant: Variant,
    backend: Backend,
    inputs: int,
    outputs: int,
    stride: int,
    num_pixels: int,
    *,
    activation: str = "none",
) -> ConvNorm:
    conv = Conv2dBeforeNorm(inputs, outputs, 3, stride, padding=1, bias=variant.bias)
    return backend.conv_norm(conv, MicroBatchNorm(outputs, num_pixels), activation, backend.matmul)


def _pointwise(
    variant: Variant,
    backend: Backend,
    inputs: int,
    outputs: int,
    num_values: int,
    *,
    groups: int = 1,
    activation: str = "none",
) -> ConvNorm:
    conv = Conv2dBeforeNorm(inputs, outputs, 1, groups=groups, bias=variant.bias)
    return backend.conv_norm(conv, MicroBatchNorm(outputs, num_values), activation, backend.matmul)


def _block(
    variant: Variant,
    config: ModelConfig,
    block: int,
    features: Boundary,
    backend: Backend,
    seed: int,
) -> nn.Module:
    rate = config.drop_path * block / max(variant.num_blocks - 1, 1)
    drop_path = DropPath(rate, seed, block)
    search = variant.search(block)
    grapher = make_grapher(variant, features.shape, search, backend, config.conv, drop_path)
    return Block(grapher, make_feed_forward(variant, features.shape, backend, drop_path))


def make_grapher(
    variant: Variant,
    shape: tuple[int, ...],
    search: NeighbourSearch,
    backend: Backend,
    conv: str,
    drop_path: DropPath,
) -> Grapher:
    """Return the first half of a block.

    Args:
        shape: channels, height and width of its features.
        search: parameters of its search, which are limited to the candidates that exist.
        conv: name of the graph convolution.
    """
    channels, height, width = shape
    num_nodes = height * width
    search = search.among(num_nodes // search.reduction**2)
    positions = None
    if variant.relative_positions and torch.empty(0).device.type == "meta":
        positions = torch.empty(1, num_nodes, num_nodes // search.reduction**2)
    elif variant.relative_positions:
        positions = relative_positions(height, width, channels, search.reduction)

    pointwise = partial(_pointwise, variant, backend)
    layer = partial(pointwise, groups=variant.groups, activation=_activation(variant))
    convolution = backend.convolutions[conv](layer, channels, num_nodes, search.k)
    return Grapher(
        channels, num_nodes, pointwise, convolution, backend.nearest, search, positions, drop_path
    )


def make_feed_forward(
    variant: Variant, shape: tuple[int, ...], backend: Backend, drop_path: DropPath
) -> FeedForward:
    """Return the second half of a block.

    Args:
        shape: channels, height and width of its features.
    """
    channels, height, width = shape
    pointwise, activation = partial(_pointwise, variant, backend), _activation(variant)
    return FeedForward(channels, height * width, pointwise, activation, drop_path)


def _head(variant: Variant, config: ModelConfig) -> nn.Module:
    channels, activation = variant.channels[-1], nn.ReLU if variant.relu else nn.GELU
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
