"""The data of a run: opening them on all ranks, and their augmentation."""

import hashlib

import numpy as np

from vigmpi.cli.config import RunConfig
from vigmpi.comm.collectives import (
    all_equal,
    allgather_bytes,
    allgather_strings,
    raise_collectively,
)
from vigmpi.comm.topology import Topology
from vigmpi.commands.data_progress import DataProgress
from vigmpi.datasets import default_dataset, open_dataset
from vigmpi.datasets.augmentation import Augmentation
from vigmpi.datasets.dataset import Dataset
from vigmpi.datasets.held_out import HeldOut
from vigmpi.errors import InputError
from vigmpi.monitor.activity import Activity


def open_data(
    config: RunConfig, topology: Topology, activity: Activity, *, training: bool
) -> Dataset:
    """Open the data set that rank 0 chooses and load what each rank needs. Collective.

    In training, the images of `--holdout` take the place of the test images.
    """
    name = config.dataset or ""
    with raise_collectively(topology.world):
        if topology.world.rank == 0:
            name = name or default_dataset(config.data_dir)
    name = allgather_strings(topology.world, name)[0]
    with raise_collectively(topology.world):  # what is at a path may differ between hosts
        dataset = open_dataset(
            name, config.data_dir, config.seed, config.image_size, config.test_share
        )
    world_root, host_root = topology.world.rank == 0, topology.host.rank == 0
    progress = DataProgress(activity, shown=world_root and config.progress != "off")
    # Rank 0 goes first: if the hosts share the folder, the others find it prepared.
    for my_turn in (world_root, host_root and not world_root):
        with raise_collectively(topology.world):
            if my_turn:
                dataset.prepare(download=config.download, progress=progress)
        dataset.index = allgather_bytes(topology.world, dataset.index if world_root else b"")[0]
    rank, layout = topology.world.rank, config.layout
    with raise_collectively(topology.world):
        dataset.load(images=layout.is_first(rank), labels=layout.is_last(rank))
    if not all_equal(topology.world, hashlib.sha256(dataset.identity.encode()).digest()):
        raise InputError(
            f"images differ between ranks: --data-dir {config.data_dir}. Use a folder that all "
            f"hosts share, or copy the same files to each host."
        )
    if training and config.holdout:
        return HeldOut(dataset, config.holdout, config.seed)
    return dataset


def make_augmentation(config: RunConfig, dataset: Dataset, topology: Topology) -> Augmentation:
    mean = std = None
    with raise_collectively(topology.world):
        if config.normalize and topology.place.stage == 0:
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
