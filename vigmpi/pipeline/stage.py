import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vigmpi.kernels.adjoint import scalar_with_gradients
from vigmpi.models.normalization import MicroBatchNorm, merge_moments
from vigmpi.models.study.vig import Layer, ViG

_ALIGNMENT = 16  # in floats: buckets start at cache lines


class Stage:
    """Layers of one pipeline stage, with the tapes of all micro-batches in flight.

    Each layer has its own autograd graph. Neither the bits of a layer's gradients nor the moment
    of their completion therefore depend on the split.

    Attributes:
        buckets: gradients, one flat tensor per layer; each parameter's `.grad` is a view of one.
        moments: batch-norm statistics of each micro-batch, set by `forward`, [chunks, width].
        layer_seconds: seconds of each layer's forward and backward since reset to 0, [layers, 2].
    """

    def __init__(self, model: ViG, chunks: int, *, first: bool) -> None:
        self.model = model
        self.layers = model.layers()
        self._first = first
        self.layer_seconds = np.zeros((len(self.layers), 2))
        self._tapes: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self.buckets = _gradient_buckets(self.layers)
        self._norms = [m for m in model.modules() if isinstance(m, MicroBatchNorm)]
        self._latest_moments = _moment_views(self._norms)
        self.moments = self._latest_moments.new_zeros(chunks, len(self._latest_moments))

    def zero_gradients(self) -> None:
        for bucket in self.buckets:
            bucket.zero_()

    def forward(self, micro_batch: int, features: Tensor) -> Tensor:
        """Run all layers on node features [images, channels, nodes] for training; keep the tape."""
        tape = []
        for index, layer in enumerate(self.layers):
            x = features.detach().requires_grad_(index > 0 or not self._first)
            with self._timed(index, 0):
                features = layer.forward(x, self.model.graph)
            tape.append((x, features))
        self._tapes[micro_batch] = tape
        self.moments[micro_batch] = self._latest_moments
        return features.detach()

    def backward(
        self, micro_batch: int, gradient: Tensor, layer_done: Callable[[int], None]
    ) -> Tensor | None:
        """Add to the gradients; return the input's gradient (None on the first stage).

        Args:
            gradient: gradient of the loss with respect to the output of `forward`.
            layer_done: called with the index of each layer after its backward pass.
        """
        tape = self._tapes.pop(micro_batch)
        for index in reversed(range(len(self.layers))):
            x, y = tape.pop()
            with self._timed(index, 1):
                scalar_with_gradients((y,), (gradient,)).backward()
            layer_done(index)
            if x.grad is None:  # the input images
                return None
            gradient = x.grad
        return gradient

    @torch.no_grad()
    def evaluate(self, features: Tensor) -> Tensor:
        """Run all layers on node features, with the running statistics of the batch norms."""
        for index, layer in enumerate(self.layers):
            with self._timed(index, 0):
                features = layer.forward(features, self.model.graph)
        return features

    @contextmanager
    def _timed(self, layer: int, direction: int) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.layer_seconds[layer, direction] += time.perf_counter() - start

    def update_running(self, sizes: NDArray[np.int64], moments: NDArray[np.floating]) -> None:
        """Update the running statistics from all micro-batches of a global mini-batch.

        Args:
            sizes: images of each micro-batch, 0 if it is empty, [micro-batches].
            moments: the corresponding rows of `moments`, [micro-batches, width].
        """
        counts = sizes * self.model.graph.num_nodes
        rows = moments[sizes > 0].astype(np.float64)
        counts = counts[sizes > 0]
        start = 0
        for norm in self._norms:
            means = rows[:, start : start + norm.num_features]
            unbiased = rows[:, start + norm.num_features : start + 2 * norm.num_features]
            biased = unbiased * ((counts - 1) / counts)[:, None]
            mean, variance = merge_moments(counts, means, biased)
            norm.update_running(
                int(counts.sum()), torch.from_numpy(mean), torch.from_numpy(variance)
            )
            start += 2 * norm.num_features


def _gradient_buckets(layers: list[Layer]) -> list[Tensor]:
    """Make each parameter's `.grad` a view of its layer's slice of one flat buffer."""
    sizes = [sum(p.numel() for p in layer.parameters) for layer in layers]
    strides = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes]
    flat = torch.zeros(sum(strides), dtype=layers[0].parameters[0].dtype)
    buckets = [padded[:size] for padded, size in zip(flat.split(strides), sizes, strict=True)]
    for layer, bucket in zip(layers, buckets, strict=True):
        views = bucket.split([p.numel() for p in layer.parameters])
        for parameter, view in zip(layer.parameters, views, strict=True):
            parameter.grad = view.view_as(parameter)
    return buckets


def _moment_views(norms: list[MicroBatchNorm]) -> Tensor:
    """Make each norm's moments a view [2, features] of one flat tensor, in order."""
    sizes = [2 * norm.num_features for norm in norms]
    flat = norms[0].weight.new_zeros(sum(sizes)).detach()
    for norm, view in zip(norms, flat.split(sizes), strict=True):
        norm.moments = view.view(2, norm.num_features)
    return flat
