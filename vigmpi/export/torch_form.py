"""Layers in evaluation as modules of standard operations, which `torch.export` accepts.

Norms are folded into the convolutions in front of them. Features have the axes of a layer's
boundaries in the order of memory, so that programs pass plain arrays from layer to layer.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vigmpi.models.layer import Layer
from vigmpi.models.model import Model
from vigmpi.models.normalization import MicroBatchNorm
from vigmpi.models.study import collapsed, head
from vigmpi.models.vig.block import Block, Grapher
from vigmpi.models.vig.ends import PerceptronHead, Stem
from vigmpi.models.vig.reference import PlainConvNorm, distances


class ExportableLayer(nn.Module):
    """A layer without its `MicroBatch`, on which nothing depends in evaluation.

    Attributes:
        inputs, outputs: boundaries of the layer.
        dtype: type of its values.
        has_neighbours: whether it searches for neighbours.
    """

    def __init__(self, layer: Layer, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer = module.to(dtype)
        self.has_neighbours = isinstance(module, _Block)
        self.inputs, self.outputs, self.dtype = layer.inputs, layer.outputs, dtype

    def random_input(self, images: int) -> Tensor:
        """Return always the same values, [images, *inputs.memory_shape]."""
        stream = torch.Generator().manual_seed(0)
        shape = images, *self.inputs.memory_shape
        return torch.randn(shape, generator=stream, dtype=self.dtype)

    def forward(self, values: Tensor) -> Tensor:
        """Map values [images, *inputs.memory_shape] to [images, *outputs.memory_shape]."""
        features = self.layer(self.inputs.from_memory_order(values))
        return self.outputs.in_memory_order(features).contiguous()


def exportable_layers(model: Model, dtype: torch.dtype) -> list[ExportableLayer]:
    """Return the layers of a model in evaluation mode, which is changed by this.

    Args:
        model: the study's model, or another one of the reference backend.
        dtype: type of features and weights, to which the folded weights are rounded.
    """
    model.double()
    _, height, width = model.layers[0].inputs.shape
    layers = []
    for layer, module in zip(model.layers, model.layer_modules, strict=True):
        exportable = ExportableLayer(layer, _exportable(module, height, width), dtype)
        layers.append(exportable.eval().requires_grad_(requires_grad=False))
    return layers


def _exportable(module: nn.Module, height: int, width: int) -> nn.Module:
    if isinstance(module, collapsed.Block):
        return _StudyBlock(module, height, width)
    if isinstance(module, head.Head):
        return _StudyHead(module)
    if isinstance(module, Stem):
        module = _Stem(module)
    for child in module.modules():
        if isinstance(child, PlainConvNorm):
            child[0], child[1] = _folded(*child), nn.Identity()
    if isinstance(module, PerceptronHead):
        children = dict(module.named_children())
        module.add_module("0", _folded(children["0"], children["1"]))
        module.add_module("1", nn.Identity())
    return _Block(module) if isinstance(module, Block) else _AnyMicroBatch(module)


def _folded(conv: nn.Module, norm: nn.Module) -> nn.Conv2d:
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, MicroBatchNorm)
    return fuse_conv_bn_eval(conv, norm)


class _AnyMicroBatch(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, features: Tensor) -> Tensor:
        return self.module(features, None)


class _Stem(nn.Module):
    def __init__(self, stem: Stem) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(*stem.convolutions)
        self.positions = stem.pos_embed

    def forward(self, features: Tensor, micro_batch: None) -> Tensor:  # noqa: ARG002
        return self.convolutions(features) + self.positions


class _StudyBlock(nn.Module):
    """Block of the study's model, collapsed to one hidden layer for each half."""

    degrees: Tensor

    def __init__(self, block: collapsed.Block, height: int, width: int) -> None:
        super().__init__()
        for name, layer in zip(("grapher", "ffn"), block.folded_layers(), strict=True):
            for key in "abvc":
                self.register_buffer(f"{name}_{key}", getattr(layer, key).detach())
        ones = torch.ones(1, 1, height, width, dtype=torch.float64)
        self.register_buffer("degrees", _window_sum(ones))

    def forward(self, features: Tensor) -> Tensor:
        x = features.unflatten(2, self.degrees.shape[2:]) if features.dim() == 3 else features
        degrees = self.degrees.expand(x.shape[0], -1, -1, -1)
        gathered = torch.cat([_window_sum(x), x, degrees], dim=1)
        x = x + _hidden_layer(gathered, *(getattr(self, f"grapher_{key}") for key in "abvc"))
        x = x + _hidden_layer(x, *(getattr(self, f"ffn_{key}") for key in "abvc"))
        return x.flatten(2)


def _window_sum(x: Tensor) -> Tensor:
    """Return the sum over the eight pixels around each pixel."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, divisor_override=1) - x


def _hidden_layer(x: Tensor, a: Tensor, b: Tensor, v: Tensor, c: Tensor) -> Tensor:
    hidden = F.gelu(F.conv2d(x, a[..., None, None], b))
    return F.conv2d(hidden, v.T[..., None, None], c)


class _StudyHead(nn.Module):
    def __init__(self, module: head.Head) -> None:
        super().__init__()
        self.fc1, self.fc2, self._takes_mean = module.fc1, module.fc2, module.takes_mean

    def forward(self, features: Tensor) -> Tensor:
        pooled = features.mean(dim=2) if self._takes_mean else features.sum(dim=2)
        return self.fc2(F.gelu(self.fc1(pooled)))


class _Block(nn.Module):
    def __init__(self, block: Block) -> None:
        super().__init__()
        grapher, self.ffn = block
        assert isinstance(grapher, Grapher)
        self.grapher = _Grapher(grapher)

    def forward(self, features: Tensor) -> Tensor:
        return self.ffn(self.grapher(features), None)


class _Grapher(nn.Module):
    def __init__(self, grapher: Grapher) -> None:
        super().__init__()
        self.fc1, self.fc2 = grapher.fc1, grapher.fc2
        self.convolution = grapher.graph_conv["gconv"]
        self.offsets, self._search = grapher.relative_pos, grapher.search

    def forward(self, features: Tensor) -> Tensor:
        k, dilation, window = self._search
        x = self.fc1(features)
        y = F.avg_pool2d(x, window) if window > 1 else x
        index = _smallest(distances(x, y, self.offsets), k * dilation)[..., ::dilation]
        return self.fc2(self.convolution(x, y, _Neighbours(index)), features)


class _Neighbours:
    """The part of `graphs.neighbours.Neighbours` that the reference backend uses."""

    def __init__(self, index: Tensor) -> None:
        self._index = index

    def gather(self, candidates: Tensor) -> Tensor:
        """Return the features of every node's neighbours, [images, channels, nodes, k]."""
        image = torch.arange(self._index.shape[0])[:, None, None]
        return candidates.flatten(2).mT[image, self._index].permute(0, 3, 1, 2)


def _smallest(values: Tensor, count: int) -> Tensor:
    """Return the indices of the smallest values in ascending order, lower index first.

    float32 values are compared with their indices in one integer of 64 bits.
    """
    if values.dtype is not torch.float32:
        return values.argsort(dim=-1, stable=True)[..., :count]
    bits = torch.where(values == 0, 0.0, values).view(torch.int32)  # -0.0 equals 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    keys = (ordered.to(torch.int64) << 32) | torch.arange(values.shape[-1])
    return keys.topk(count, largest=False).values & 0xFFFFFFFF
