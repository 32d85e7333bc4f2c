"""Small model on random images, trained by the real trainer in any layout."""

from pathlib import Path

import numpy as np
from mpi4py import MPI

from vigmpi.comm.collectives import allgather_rows
from vigmpi.comm.topology import Topology, make_topology
from vigmpi.comm.waiting import wait
from vigmpi.datasets.augmentation import Augmentation
from vigmpi.datasets.dataset import Dataset, Images, Indices, Labels
from vigmpi.layout.layout import Layout
from vigmpi.layout.split import split_blocks
from vigmpi.models.study import ViG, ViGConfig
from vigmpi.monitor.activity import Activity
from vigmpi.phase import Phase
from vigmpi.pipeline.trainer import StepResult, Trainer, TrainerConfig


class Noise(Dataset):
    """Random images and labels; a rank may read only the kind that it loaded."""

    name = "noise"
    details = "for tests"
    image_size = (6, 5)
    num_images = {Phase.TRAIN: 32, Phase.TEST: 9}  # noqa: RUF012

    def load(self, *, images: bool, labels: bool) -> None:
        self._loaded = {"images": images, "labels": labels}

    def images(self, phase: Phase, samples: Indices) -> Images:
        assert self._loaded["images"]
        return self._random(phase, 0).random((64, 3, *self.image_size), np.float32)[samples]

    def labels(self, phase: Phase, samples: Indices) -> Labels:
        assert self._loaded["labels"]
        return self._random(phase, 1).integers(self.num_classes, size=64)[samples]

    def _random(self, phase: Phase, stream: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, list(Phase).index(phase), stream])


CONFIG = ViGConfig(
    blocks=8, grapher_hidden=8, ffn_hidden=16, head_hidden=12, image_size=Noise.image_size
)


def loaded(topology: Topology, dataset: Dataset) -> Dataset:
    dataset.load(
        images=topology.previous_stage == MPI.PROC_NULL, labels=topology.next_stage == MPI.PROC_NULL
    )
    return dataset


def make_trainer(
    topology: Topology,
    layout: Layout,
    batch_size: int,
    *,
    seed: int = 0,
    lr: float = 1e-3,
    augmentation: Augmentation = Augmentation(),
) -> Trainer:
    stage = topology.place.stage
    blocks = split_blocks(CONFIG.blocks, layout.stages, None)[stage]
    model = ViG(CONFIG, blocks, head=stage == layout.stages - 1, seed=seed)
    dataset = loaded(topology, Noise(Path(), seed))
    limits = {Phase.TRAIN: 0, Phase.TEST: 0}
    config = TrainerConfig(limits, batch_size, seed, lr=lr, augmentation=augmentation)
    return Trainer(topology, layout, model, dataset, config, Activity(topology.world.rank))


def on_first_ranks(layout: Layout) -> Topology | None:
    """Create a layout on the first ranks of the world; return None on the rest. Collective."""
    world = MPI.COMM_WORLD
    wait(world.Ibarrier())  # Split spins, and would take the cores of ranks that still compute
    used = MPI.Intracomm(world.Split(0 if world.rank < layout.ranks else 1, world.rank))
    return make_topology(used, layout) if world.rank < layout.ranks else None


def global_loss(topology: Topology, result: StepResult) -> float:
    """Return a mini-batch's loss, summed over all ranks. Collective."""
    return float(allgather_rows(topology.world, np.array([result.loss])).sum())
