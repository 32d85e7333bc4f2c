"""Layers of a model, and the boundaries between them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_ALIGNMENT_BYTES = 64


class MicroBatch(NamedTuple):
    """Identity of a micro-batch, for layers whose forward pass depends on it (drop path).

    Attributes:
        samples: index of each image in the data set, [images].
        step: number of mini-batches that the run finished before.
    """

    samples: NDArray[np.int64]
    step: int


@dataclass(frozen=True)
class Boundary:
    """Features between two layers, and their gradients.

    A layer gets the same strides whether its neighbour runs on this rank or on another one,
    because many operations round differently for other strides.

    Attributes:
        shape: shape of one image's features.
        dtype: data type of features and gradients.
        channels_last: true if channels, the first axis of `shape`, vary fastest in memory.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = field(default_factory=torch.get_default_dtype)
    channels_last: bool = False

    @property
    def image_bytes(self) -> int:
        """Bytes of one image's features."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def numpy_dtype(self) -> np.dtype:
        """Data type of messages; numpy has no bfloat16, whose bits are sent as uint16."""
        return _bits(torch.empty(0, dtype=self.dtype)).numpy().dtype

    @property
    def memory_shape(self) -> tuple[int, ...]:
        """Shape of one image's features in the order of memory."""
        return (*self.shape[1:], self.shape[0]) if self.channels_last else self.shape

    def in_memory_order(self, features: Tensor) -> Tensor:
        """Return a view [images, *memory_shape] of features [images, *shape]."""
        return features.movedim(1, -1) if self.channels_last else features

    def from_memory_order(self, values: Tensor) -> Tensor:
        """Return a view [images, *shape] of values [images, *memory_shape]."""
        return values.movedim(-1, 1) if self.channels_last else values

    def to_message(self, features: Tensor) -> NDArray[Any]:
        """Return features [images, *shape] as an array [images, *memory_shape] of their bits."""
        return _bits(self.in_memory_order(features)).numpy()

    def from_message(self, message: NDArray[Any]) -> Tensor:
        """Return the features [images, *shape] whose bits are in a message."""
        return self.from_memory_order(torch.from_numpy(message).view(self.dtype))

    def conform(self, features: Tensor) -> Tensor:
        """Return features with the strides of this boundary, copied only if they have others.

        Raises:
            ValueError: if they have another shape.
        """
        if features.shape[1:] != self.shape:
            shape = tuple(features.shape[1:])
            raise ValueError(f"features of shape {shape} instead of {self.shape}")
        values = self.in_memory_order(features)
        if _is_contiguous(values) and features.data_ptr() % _ALIGNMENT_BYTES == 0:
            return features
        return self.from_memory_order(values.new_empty(values.shape).copy_(values))


def _bits(features: Tensor) -> Tensor:
    return features.view(torch.uint16) if features.dtype is torch.bfloat16 else features


def _is_contiguous(values: Tensor) -> bool:
    """Return whether all strides are those of a new tensor, also along axes of length 1."""
    stride = 1
    for size, actual in zip(reversed(values.shape), reversed(values.stride()), strict=True):
        if actual != stride:
            return False
        stride *= max(size, 1)
    return True


@dataclass(frozen=True)
class Layer:
    """Entry of a model's ordered list of layers.

    Attributes:
        name: unique name, used in the record, in messages and by `--split-after`.
        build: constructor of the module. It maps features [images, *inputs.shape] and their
            `MicroBatch` to [images, *outputs.shape], and depends on nothing else: no global random
            numbers, no weights shared with other layers, and `MicroBatchNorm` for batch norms. Its
            weights do not depend on which layers are built.
        inputs, outputs: boundaries in front of the layer and behind it.
        prefix: what precedes the names of the module's tensors in the model's `state_dict`.
        is_block: true if `--split` counts this layer.
        cut: true if the pipeline may be cut behind this layer.
        min_images: number of images in the smallest micro-batch that the layer can train on.
        recomputed_bytes: bytes per image that the backward pass computes again.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Boundary
    outputs: Boundary
    prefix: str = ""
    is_block: bool = False
    cut: bool = True
    min_images: int = 1
    recomputed_bytes: int = 0


def check_layers(layers: Sequence[Layer]) -> None:
    """Raise ValueError if names repeat, or if boundaries of neighbouring layers differ."""
    if len({layer.name for layer in layers}) < len(layers):
        raise ValueError("several layers have the same name")
    for before, after in pairwise(layers):
        if before.outputs != after.inputs:
            raise ValueError(f"boundary of {before.name} and {after.name} is not the same")
