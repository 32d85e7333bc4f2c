"""Small model on random images, trained by the real pipeline in any layout."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from mpi4py import MPI

from vigmpi.comm.collectives import allgather_rows
from vigmpi.comm.topology import Topology, make_topology
from vigmpi.comm.waiting import wait
from vigmpi.datasets.augmentation import Augmentation
from vigmpi.datasets.dataset import Dataset, Images, Indices, Labels
from vigmpi.datasets.soft_labels import SoftLabels
from vigmpi.layout import split
from vigmpi.layout.layout import Layout
from vigmpi.models.layer import Layer
from vigmpi.models.model import Model
from vigmpi.models.study.config import ViGConfig
from vigmpi.models.study.layers import study_layers
from vigmpi.monitor.activity import Activity
from vigmpi.parallel_graphs.lattice_strip import LatticeStrip
from vigmpi.phase import Phase
from vigmpi.pipeline.evaluator import Evaluator
from vigmpi.pipeline.loader import Loader, LoaderConfig
from vigmpi.pipeline.pipeline import Pipeline, PipelineConfig
from vigmpi.pipeline.trainer import Trainer, TrainerConfig
from vigmpi.position import Position
from vigmpi.record.step_record import StepRecord


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


_TRAINER = TrainerConfig(lr=1e-3)
CONFIG = ViGConfig(
    blocks=8, grapher_hidden=8, ffn_hidden=16, head_hidden=12, image_size=Noise.image_size
)


@dataclass
class Training:
    """One rank's part of a training run."""

    pipeline: Pipeline
    trainer: Trainer
    loader: Loader

    @property
    def model(self) -> Model:
        return self.pipeline.model

    def run(self, start: Position) -> Iterator[StepRecord]:
        """Run the rest of a phase and yield this rank's numbers of each mini-batch."""
        train = start.phase is Phase.TRAIN
        step = self.trainer.step if train else Evaluator(self.pipeline).step
        yield from map(step, self.loader.batches(start))


def make_training(
    topology: Topology,
    layout: Layout,
    batch_size: int,
    *,
    seed: int = 0,
    order_seed: int | None = None,
    trainer: TrainerConfig = _TRAINER,
    dataset: Dataset | None = None,
    layers: list[Layer] | None = None,
    readout: str = "sum",
    schedule: str = "gpipe",
    split_after: Sequence[str] | None = None,
    augmentation: Augmentation = Augmentation(),
    soft_labels: SoftLabels = SoftLabels(),
    recompute: bool = False,
) -> Training:
    rank = topology.world.rank
    dataset, activity = dataset or Noise(Path(), seed), Activity(rank)
    if layers is None:
        size, exchange = dataset.image_size, activity.exchange_with_parts
        graph = LatticeStrip(*size, topology.parts, exchange) if layout.parts > 1 else None
        config = replace(CONFIG, image_size=size, readout=readout)
        layers = study_layers(config, seed=seed, graph=graph, recompute=recompute)
    stages = (
        split.split_layers(layers, layout.stages)
        if split_after is None
        else split.split_after(layers, layout.stages, split_after)
    )
    pipeline_config = PipelineConfig(layout, layers, stages, batch_size, schedule)
    model = Model(pipeline_config.stage_layers(topology.place.stage))
    pipeline = Pipeline(topology, pipeline_config, model, activity)
    dataset.load(images=layout.is_first(rank), labels=layout.is_last(rank))
    limits = {Phase.TRAIN: 0, Phase.TEST: 0}
    order = LoaderConfig(
        batch_size, seed if order_seed is None else order_seed, limits, augmentation, soft_labels
    )
    loader = Loader(dataset, layout, rank, layers[0].inputs, order)
    return Training(pipeline, Trainer(pipeline, trainer), loader)


def on_first_ranks(layout: Layout) -> Topology | None:
    """Create a layout on the first ranks of the world; return None on the rest. Collective."""
    world = MPI.COMM_WORLD
    wait(world.Ibarrier())  # Split spins, and would take the cores of ranks that still compute
    used = MPI.Intracomm(world.Split(0 if world.rank < layout.ranks else 1, world.rank))
    return make_topology(used, layout) if world.rank < layout.ranks else None


def global_loss(topology: Topology, record: StepRecord) -> float:
    """Return a mini-batch's loss, summed over all ranks. Collective."""
    return float(allgather_rows(topology.world, np.array([record.loss])).sum())
