from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tests.conftest import OnRanks
from tests.mpi.small import CONFIG, Noise, loaded, on_first_ranks
from vigmpi.datasets.dataset import Images, Indices
from vigmpi.graphs.pixel_lattice import PixelLattice
from vigmpi.layout.layout import Layout
from vigmpi.layout.split import split_blocks
from vigmpi.models.study import ViG
from vigmpi.models.study.vig import Layer
from vigmpi.monitor.activity import Activity
from vigmpi.phase import Phase
from vigmpi.pipeline.trainer import Trainer, TrainerConfig
from vigmpi.position import Position


class Coded(Noise):
    """Images whose pixels are a tenth of the label."""

    def images(self, phase: Phase, samples: Indices) -> Images:
        assert self._loaded["images"]
        labels = self._random(phase, 1).integers(self.num_classes, size=64)[samples]
        pixels = np.broadcast_to(labels[:, None, None, None] / 10, (len(labels), 3, 6, 5))
        return pixels.astype(np.float32)


class Decoder(ViG):
    """Blocks that return their input, and a head that decodes the label from it."""

    def layers(self) -> list[Layer]:
        return [
            Layer(layer.name, _decode if layer.name == "head" else _identity, layer.parameters)
            for layer in super().layers()
        ]


def _identity(features: Tensor, graph: PixelLattice) -> Tensor:  # noqa: ARG001
    return features + torch.zeros(1, requires_grad=True)


def _decode(features: Tensor, graph: PixelLattice) -> Tensor:  # noqa: ARG001
    label = 10 * features.mean(dim=(1, 2), keepdim=True).squeeze(2)
    return -((label - torch.arange(10)) ** 2)


def accuracy(same_order: bool) -> float:
    layout = Layout(stages=2, replicas=2, chunks=3)
    topology = on_first_ranks(layout)
    assert topology
    stage = topology.place.stage
    model = Decoder(CONFIG, split_blocks(8, 2, None)[stage], head=stage == 1)
    dataset = loaded(topology, Coded(Path(), 0))
    order_seed = 0 if same_order else stage
    config = TrainerConfig({Phase.TRAIN: 0, Phase.TEST: 0}, 7, order_seed, lr=1e-3)
    trainer = Trainer(topology, layout, model, dataset, config, Activity(topology.world.rank))
    correct = np.zeros(1)
    num_images = 0
    for phase in Phase:
        for result in trainer.run(Position(phase=phase)):
            correct += result.correct
            num_images += result.num_images
    total = np.empty(1)
    topology.world.Allreduce(correct, total)
    return float(total[0] / num_images)


def compare_labels() -> None:
    assert accuracy(same_order=True) == 1
    assert accuracy(same_order=False) < 0.7  # the study's bug


def test_labels_belong_to_their_images(on_ranks: OnRanks) -> None:
    on_ranks(4, compare_labels)
