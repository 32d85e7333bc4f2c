import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from vigmpi.kernels.adjoint import scalar_with_gradients
from vigmpi.models.layer import MicroBatch
from vigmpi.models.model import Model


def ignore_layer(layer: int) -> None:
    """Ignore a layer to whose gradients later micro-batches will add."""


class Stage:
    """Layers of one pipeline stage, with the tapes of all micro-batches in flight.

    Each layer has its own autograd graph. Neither the bits of a layer's gradients nor the moment
    of their completion therefore depend on the split.

    Attributes:
        layer_seconds: seconds of each layer's forward and backward since reset to 0, [layers, 2].
    """

    def __init__(self, model: Model, *, first: bool) -> None:
        self.model = model
        self._layers = list(zip(model.layers, model.layer_modules, strict=True))
        self._first = first
        self.layer_seconds = np.zeros((len(self._layers), 2))
        self._tapes: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def of(self, model: Model) -> "Stage":
        """Return a stage that runs another model's layers and adds to the same seconds."""
        if model is self.model:
            return self
        other = Stage(model, first=self._first)
        other.layer_seconds = self.layer_seconds
        return other

    def forward(self, number: int, features: Tensor, micro_batch: MicroBatch) -> Tensor:
        """Run all layers for training and keep the tape until `backward`.

        Args:
            number: number of the micro-batch in its mini-batch.
            features: input of the first layer, [images, *shape].

        Returns:
            The output of the last layer, [images, *shape].
        """
        tape = []
        for index, (layer, module) in enumerate(self._layers):
            x = features.detach().requires_grad_(index > 0 or not self._first)
            with self._timed(index, 0):
                y = module(x, micro_batch)
                features = layer.outputs.conform(y.detach())
            tape.append((x, y))
        self._tapes[number] = tape
        return features

    def backward(
        self, number: int, gradient: Tensor, layer_done: Callable[[int], None] = ignore_layer
    ) -> Tensor | None:
        """Add to the gradients; return the input's gradient (None on the first stage).

        Args:
            gradient: gradient of the loss with respect to the output of `forward`.
            layer_done: called with the index of each layer after its backward pass.
        """
        tape = self._tapes.pop(number)
        for index, (layer, _) in reversed(list(enumerate(self._layers))):
            x, y = tape.pop()
            with self._timed(index, 1):
                if y.requires_grad:
                    scalar_with_gradients([y], [gradient]).backward()
            layer_done(index)
            if index > 0 or not self._first:
                assert x.grad is not None
                gradient = layer.inputs.conform(x.grad)
        return None if self._first else gradient

    @torch.no_grad()
    def evaluate(self, features: Tensor, micro_batch: MicroBatch) -> Tensor:
        """Run all layers without a tape, with the running statistics of the batch norms."""
        for index, (layer, module) in enumerate(self._layers):
            with self._timed(index, 0):
                features = layer.outputs.conform(module(features, micro_batch))
        return features

    @contextmanager
    def _timed(self, layer: int, direction: int) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.layer_seconds[layer, direction] += time.perf_counter() - start
