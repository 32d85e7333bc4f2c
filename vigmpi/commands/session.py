"""What every run needs before its first mini-batch: topology, data, model, trainer."""

import hashlib
import os
from dataclasses import dataclass

import numpy as np
import torch
from mpi4py import MPI

from vigmpi.checkpoint.manifest import Checkpoint
from vigmpi.checkpoint.weights import read_values
from vigmpi.cli.config import RunConfig
from vigmpi.comm.collectives import all_equal, allgather_rows, raise_collectively
from vigmpi.comm.topology import Topology
from vigmpi.commands.about import about_ranks
from vigmpi.datasets import DATASETS, Dataset, default_dataset
from vigmpi.datasets.augmentation import Augmentation
from vigmpi.errors import InputError
from vigmpi.host import threads_per_rank
from vigmpi.models.study import ViG, ViGConfig
from vigmpi.monitor.activity import Activity
from vigmpi.pipeline.memory_forecast import Forecast, forecast_memory
from vigmpi.pipeline.trainer import Trainer, TrainerConfig
from vigmpi.position import Position


@dataclass(frozen=True)
class Session:
    """One rank's share of a run.

    Attributes:
        ranks: what the record says of each rank.
    """

    topology: Topology
    dataset: Dataset
    augmentation: Augmentation
    model: ViG
    trainer: Trainer
    forecast: Forecast
    ranks: dict[str, np.ndarray]
    activity: Activity


def open_session(config: RunConfig, topology: Topology, activity: Activity) -> Session:
    """Collective.

    Raises:
        InputError: on all ranks alike.
    """
    layout = config.layout
    threads = _set_threads(config, topology)
    dataset = _open_dataset(config, topology)
    blocks = config.stage_blocks[topology.place.stage]
    model = ViG(
        ViGConfig(
            blocks=config.blocks,
            num_classes=dataset.num_classes,
            readout=config.readout,
            image_size=dataset.image_size,
        ),
        blocks,
        backend=config.backend,
        head=topology.place.stage == layout.stages - 1,
        seed=config.seed,
    )
    with raise_collectively(topology.world):
        forecast = forecast_memory(topology, layout, model, config.batch_size)
    ranks = about_ranks(topology, blocks, threads, forecast.rank)
    augmentation = _augmentation(config, dataset, topology)
    plan = TrainerConfig(
        limits=config.limits,
        batch_size=config.batch_size,
        seed=config.seed,
        epochs=config.epochs,
        lr=config.lr,
        lr_schedule=config.lr_schedule,
        warm_up=config.warm_up,
        on_nonfinite=config.on_nonfinite,
        augmentation=augmentation,
    )
    trainer = Trainer(topology, layout, model, dataset, plan, activity)
    return Session(topology, dataset, augmentation, model, trainer, forecast, ranks, activity)


def start_from(checkpoint: Checkpoint | None, session: Session) -> Position:
    """Take over what a checkpoint holds of this rank's stage; where it was. Collective.

    Raises:
        InputError: it is damaged, of another model, or not the same on all ranks (on all alike).
    """
    found = repr((checkpoint.path, checkpoint.manifest) if checkpoint else None)
    if not all_equal(session.topology.world, hashlib.sha256(found.encode()).digest()):
        raise InputError(
            "the ranks find different checkpoints; type: a --checkpoint-dir that all hosts share"
        )
    if checkpoint is None:
        return Position()
    about, trainer = checkpoint.manifest, session.trainer
    with raise_collectively(session.topology.world):
        trainer.load(read_values(checkpoint, trainer.shapes(optimizer=about is not None)))
    return about.position if about else Position()


def _set_threads(config: RunConfig, topology: Topology) -> int:
    cores = np.zeros(os.sysconf("SC_NPROCESSORS_CONF"), dtype=np.uint8)
    cores[list(os.sched_getaffinity(0))] = 1
    sets = [frozenset(np.flatnonzero(row).tolist()) for row in allgather_rows(topology.host, cores)]
    from_openmp = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    threads = (
        config.threads
        or (int(from_openmp) if from_openmp.isdecimal() else 0)
        or threads_per_rank(sets, topology.host.rank)
    )
    torch.set_num_threads(threads)
    return threads


def _open_dataset(config: RunConfig, topology: Topology) -> Dataset:
    """Choose as rank 0 sees its data folder, prepare on each host, load what each rank needs."""
    names = list(DATASETS)
    chosen = np.array([names.index(config.dataset or default_dataset(config.data_dir))])
    topology.world.Bcast(chosen)
    dataset = DATASETS[names[int(chosen[0])]](config.data_dir, config.seed)
    world_first, host_first = topology.world.rank == 0, topology.host.rank == 0
    for turn in (world_first, host_first and not world_first):
        # Rank 0 goes first: the hosts may share the folder, and the others then find it ready.
        with raise_collectively(topology.world):
            if turn:
                dataset.prepare(download=config.download)
    with raise_collectively(topology.world):
        dataset.load(
            images=topology.previous_stage == MPI.PROC_NULL, labels=topology.next_stage == MPI.PROC_NULL
        )
    if not all_equal(topology.world, hashlib.sha256(dataset.identity.encode()).digest()):
        raise InputError(
            f"the ranks find different images in --data-dir {config.data_dir}; type: a folder "
            f"that all hosts share, or copy it to each of them"
        )
    return dataset


def _augmentation(config: RunConfig, dataset: Dataset, topology: Topology) -> Augmentation:
    mean = std = None
    with raise_collectively(topology.world):
        if config.normalize and topology.previous_stage == MPI.PROC_NULL:
            mean, std = _channels(config, dataset)
        augmentation = Augmentation(config.flip, config.random_crop, mean, std, config.seed)
        augmentation.check(dataset.image_size)
    return augmentation


def _channels(config: RunConfig, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation: those that the model was trained with, else the data set's."""
    about = config.start.manifest if config.start else None
    if about and about.normalization:
        mean, std = np.array(about.normalization)
        return mean, std
    return dataset.mean_and_std()
