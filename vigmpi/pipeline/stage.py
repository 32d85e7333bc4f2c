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

_ALIGNMENT = 16  # floats; a bucket starts at a cache line


class Stage:
    """Runs a stage's layers for many micro-batches at once and keeps what their backward needs.

    Every layer's autograd graph ends at the layer's boundaries, so that neither the bits of a
    gradient nor the moment when a layer's gradients are whole depend on the split.

    Attributes:
        buckets: the gradients, one flat tensor a layer; every parameter's `.grad` is a view.
        moments: [chunks, width]: each micro-batch's batch-norm statistics, filled by `forward`.
        layer_seconds: spent on each layer since its owner last set it to 0, forward and backward,
            [layers, 2].
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
        """Train: run all layers on node features [images, channels, nodes], keep the tape."""
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
        """Add to the gradients; return that of the stage's input (None on the first stage).

        Args:
            gradient: of the loss with respect to what `forward` returned.
            layer_done: called with a layer's index as soon as its gradients hold this micro-batch.
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
        """Test: run all layers on node features, with the running statistics."""
        for index, layer in enumerate(self.layers):
            with self._timed(index, 0):
                features = layer.forward(features, self.model.graph)
        return features

    @contextmanager
    def _timed(self, layer: int, way: int) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.layer_seconds[layer, way] += time.perf_counter() - start

    def update_running(self, images: NDArray[np.int64], moments: NDArray[np.floating]) -> None:
        """Update the running statistics from all micro-batches of a global mini-batch.

        Args:
            images: of each micro-batch (0 where it is empty), [micro-batches].
            moments: their rows of `moments`, [micro-batches, width].
        """
        counts = images * self.model.graph.num_nodes
        rows = moments[images > 0].astype(np.float64)
        counts = counts[images > 0]
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
    """Make every parameter's `.grad` a view into its layer's slice of one flat buffer."""
    sizes = [sum(p.numel() for p in layer.parameters) for layer in layers]
    strides = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes]
    flat = torch.zeros(sum(strides), dtype=layers[0].parameters[0].dtype)
    buckets = [room[:size] for room, size in zip(flat.split(strides), sizes, strict=True)]
    for layer, bucket in zip(layers, buckets, strict=True):
        views = bucket.split([p.numel() for p in layer.parameters])
        for parameter, view in zip(layer.parameters, views, strict=True):
            parameter.grad = view.view_as(parameter)
    return buckets


def _moment_views(norms: list[MicroBatchNorm]) -> Tensor:
    """Give every norm its [2, features] of one flat tensor, in order."""
    sizes = [2 * norm.num_features for norm in norms]
    flat = norms[0].weight.new_zeros(sum(sizes)).detach()
    for norm, view in zip(norms, flat.split(sizes), strict=True):
        norm.moments = view.view(2, norm.num_features)
    return flat
