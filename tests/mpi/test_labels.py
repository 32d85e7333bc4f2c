from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tests.conftest import OnRanks
from tests.mpi.small import CONFIG, Noise, make_training, on_first_ranks
from vigmpi.datasets.dataset import Images, Indices
from vigmpi.layout.layout import Layout
from vigmpi.models.layer import MicroBatch
from vigmpi.models.study.layers import study_layers
from vigmpi.phase import Phase
from vigmpi.position import Position


class Coded(Noise):
    """Images whose pixels are a tenth of the label."""

    def images(self, phase: Phase, samples: Indices) -> Images:
        assert self._loaded["images"]
        labels = self._random(phase, 1).integers(self.num_classes, size=64)[samples]
        pixels = np.broadcast_to(labels[:, None, None, None] / 10, (len(labels), 3, 6, 5))
        return pixels.astype(np.float32)


class Identity(nn.Module):
    """Block that returns its input."""

    def forward(self, features: Tensor, micro_batch: MicroBatch) -> Tensor:  # noqa: ARG002
        return features.flatten(2) + torch.zeros(1, requires_grad=True)


class Decoder(nn.Module):
    """Head that decodes the label from the pixels."""

    def forward(self, features: Tensor, micro_batch: MicroBatch) -> Tensor:  # noqa: ARG002
        label = 10 * features.mean(dim=(1, 2), keepdim=True).squeeze(2)
        return -((label - torch.arange(10)) ** 2)


def accuracy(same_order: bool) -> float:
    layout = Layout(stages=2, replicas=2, chunks=3)
    topology = on_first_ranks(layout)
    assert topology
    layers = [
        replace(layer, build=Identity if layer.is_block else Decoder)
        for layer in study_layers(CONFIG)
    ]
    order_seed = 0 if same_order else topology.place.stage
    dataset = Coded(Path(), 0)
    training = make_training(
        topology, layout, 7, order_seed=order_seed, layers=layers, dataset=dataset
    )
    correct = np.zeros(1)
    num_images = 0
    for phase in Phase:
        for record in training.run(Position(phase=phase)):
            correct += record.correct
            num_images += record.num_images
    total = np.empty(1)
    topology.world.Allreduce(correct, total)
    return float(total[0] / num_images)


def compare_labels() -> None:
    assert accuracy(same_order=True) == 1
    assert accuracy(same_order=False) < 0.7  # the study's bug


def test_labels_belong_to_their_images(on_ranks: OnRanks) -> None:
    on_ranks(4, compare_labels)
