"""Recording of the graphs of a run, and their replay.

The search for neighbours turns a difference in rounding into another graph. Two ways of computing
a model in fp32 are therefore compared on the same graphs.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vigmpi.models.layer import MicroBatch
from vigmpi.models.model import Model
from vigmpi.models.vig.block import Grapher

# Neighbours [nodes, k] of an image by the name of the layer, whether the model was in training,
# the step and the index of the sample.
Graphs = dict[tuple[str, bool, int, int], NDArray[np.integer]]


def record_graphs(model: Model, graphs: Graphs) -> None:
    """Add the graph of every image that the model processes from now on."""
    for name, grapher in _graphers(model):
        grapher.find_neighbours = _Recording(name, grapher, graphs)


def replay_graphs(model: Model, graphs: Graphs) -> None:
    """Replace the search for neighbours by recorded graphs."""
    for name, grapher in _graphers(model):
        grapher.find_neighbours = _Replaying(name, grapher, graphs)


def _graphers(model: Model) -> Iterator[tuple[str, Grapher]]:
    for layer, module in zip(model.layers, model.layer_modules, strict=True):
        for grapher in module.modules():
            if isinstance(grapher, Grapher):
                yield layer.name, grapher


class _Recording:
    def __init__(self, name: str, grapher: Grapher, graphs: Graphs) -> None:
        self._name, self._grapher, self._graphs = name, grapher, graphs
        self._search = grapher.find_neighbours or grapher.find_nearest

    def __call__(self, x: Tensor, y: Tensor, micro_batch: MicroBatch) -> Tensor:
        index = self._search(x, y, micro_batch)
        for sample, graph in zip(micro_batch.samples, index.numpy(), strict=True):
            key = self._name, self._grapher.training, micro_batch.step, int(sample)
            self._graphs[key] = graph.astype(np.int32)
        return index


class _Replaying:
    def __init__(self, name: str, grapher: Grapher, graphs: Graphs) -> None:
        self._name, self._grapher, self._graphs = name, grapher, graphs

    def __call__(self, x: Tensor, y: Tensor, micro_batch: MicroBatch) -> Tensor:  # noqa: ARG002
        training, step = self._grapher.training, micro_batch.step
        keys = [(self._name, training, step, int(sample)) for sample in micro_batch.samples]
        return torch.from_numpy(np.stack([self._graphs[key] for key in keys]).astype(np.int64))
