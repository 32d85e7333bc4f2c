"""Setup of a run before its first mini-batch: data, model, memory forecast, trainer."""

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
from vigmpi.commands.provenance import rank_columns
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
    """The objects that one rank needs for a run.

    Attributes:
        ranks: the columns of `vigmpi.record.columns.RANKS`, each [ranks].
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
    """Open the data set and build the model and its trainer. Collective.

    Raises:
        InputError: if the data cannot be used or the memory does not suffice (on all ranks).
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
    ranks = rank_columns(topology, blocks, threads, forecast.rank)
    augmentation = _augmentation(config, dataset, topology)
    trainer_config = TrainerConfig(
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
    trainer = Trainer(topology, layout, model, dataset, trainer_config, activity)
    return Session(topology, dataset, augmentation, model, trainer, forecast, ranks, activity)


def start_from(checkpoint: Checkpoint | None, session: Session) -> Position:
    """Load this rank's stage from a checkpoint and return its position. Collective.

    Raises:
        InputError: if it is damaged, of another model, or differs between ranks (on all ranks).
    """
    world = session.topology.world
    content = repr((checkpoint.path, checkpoint.manifest) if checkpoint else None)
    if not all_equal(world, hashlib.sha256(content.encode()).digest()):
        path = checkpoint.path if checkpoint else "none"
        raise InputError(
            f"checkpoints differ between ranks: rank {world.rank} found {path}. Use a "
            f"--checkpoint-dir that all hosts share."
        )
    if checkpoint is None:
        return Position()
    manifest, trainer = checkpoint.manifest, session.trainer
    with raise_collectively(world):
        trainer.load(read_values(checkpoint, trainer.shapes(optimizer=manifest is not None)))
    return manifest.position if manifest else Position()


def _set_threads(config: RunConfig, topology: Topology) -> int:
    cores = np.zeros(os.sysconf("SC_NPROCESSORS_CONF"), dtype=np.uint8)
    cores[list(os.sched_getaffinity(0))] = 1
    rows = allgather_rows(topology.host, cores)
    core_sets = [frozenset(np.flatnonzero(row).tolist()) for row in rows]
    omp_threads = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    threads = (
        config.threads
        or (int(omp_threads) if omp_threads.isdecimal() else 0)
        or threads_per_rank(core_sets, topology.host.rank)
    )
    torch.set_num_threads(threads)
    return threads


def _open_dataset(config: RunConfig, topology: Topology) -> Dataset:
    """Open the data set that rank 0 chooses and load what each rank needs. Collective."""
    names = list(DATASETS)
    choice = np.array([names.index(config.dataset or default_dataset(config.data_dir))])
    topology.world.Bcast(choice)
    dataset = DATASETS[names[int(choice[0])]](config.data_dir, config.seed)
    world_root, host_root = topology.world.rank == 0, topology.host.rank == 0
    # Rank 0 goes first: if the hosts share the folder, the others find it prepared.
    for my_turn in (world_root, host_root and not world_root):
        with raise_collectively(topology.world):
            if my_turn:
                dataset.prepare(download=config.download)
    with raise_collectively(topology.world):
        dataset.load(
            images=topology.previous_stage == MPI.PROC_NULL,
            labels=topology.next_stage == MPI.PROC_NULL,
        )
    if not all_equal(topology.world, hashlib.sha256(dataset.identity.encode()).digest()):
        raise InputError(
            f"images differ between ranks: --data-dir {config.data_dir}. Use a folder that all "
            f"hosts share, or copy the same files to each host."
        )
    return dataset


def _augmentation(config: RunConfig, dataset: Dataset, topology: Topology) -> Augmentation:
    mean = std = None
    with raise_collectively(topology.world):
        if config.normalize and topology.previous_stage == MPI.PROC_NULL:
            mean, std = _mean_and_std(config, dataset)
        augmentation = Augmentation(config.flip, config.random_crop, mean, std, config.seed)
        augmentation.check(dataset.image_size)
    return augmentation


def _mean_and_std(config: RunConfig, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the statistics that the model was trained with, otherwise those of the data set."""
    manifest = config.start.manifest if config.start else None
    if manifest and manifest.normalization:
        mean, std = np.array(manifest.normalization)
        return mean, std
    return dataset.mean_and_std()
