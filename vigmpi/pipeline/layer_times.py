"""Times of a model's layers, from which `--split measured` chooses the stages."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vigmpi.models.layer import Layer, MicroBatch
from vigmpi.models.model import Model
from vigmpi.pipeline.stage import Stage

_ROUNDS = 3


def layer_times(layers: Sequence[Layer], num_images: int, *, training: bool) -> NDArray[np.float64]:
    """Return the seconds of each layer's forward and backward, [layers, 2].

    Each layer is built, timed and freed before the next one. The times are medians of a few
    passes after a warm-up.

    Args:
        num_images: size of the micro-batch.
        training: false to time the forward pass of an evaluation only.
    """
    features = torch.rand(num_images, *layers[0].inputs.shape)  # refused first if too large
    micro_batch = MicroBatch(np.arange(num_images), 0)
    seconds = np.zeros((len(layers), 2))
    for index, layer in enumerate(layers):
        features = layer.inputs.conform(features)
        model = Model([layer]).train(training)
        stage = Stage(model, first=index == 0)
        rounds = np.zeros((_ROUNDS + 1, 2))
        for row in rounds:
            output = run_once(stage, features, micro_batch, training=training)
            row[:] = stage.layer_seconds[0]
        seconds[index] = np.median(rounds[1:], axis=0)
        features = output
    return seconds


def run_once(stage: Stage, features: Tensor, micro_batch: MicroBatch, *, training: bool) -> Tensor:
    """Run a stage and return its output; its `layer_seconds` are those of this pass."""
    stage.layer_seconds[:] = 0
    if not training:
        return stage.evaluate(features, micro_batch)
    output = stage.forward(0, features, micro_batch)
    stage.backward(0, torch.full_like(output, 1 / output.numel()))
    return output
