"""Setup of a run before its first mini-batch: data, model, memory forecast, pipeline."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from vigmpi.cli.config import RunConfig
from vigmpi.cli.values import MEASURED
from vigmpi.comm.collectives import (
    all_equal,
    allgather_bytes,
    allgather_rows,
    allgather_strings,
    raise_collectively,
)
from vigmpi.comm.topology import Topology, make_topology
from vigmpi.commands.data_progress import DataProgress
from vigmpi.commands.micro_batches import check_micro_batches
from vigmpi.commands.provenance import rank_columns
from vigmpi.commands.rank_group import RankGroup
from vigmpi.commands.threads import set_threads
from vigmpi.datasets import default_dataset, open_dataset
from vigmpi.datasets.augmentation import Augmentation
from vigmpi.datasets.dataset import Dataset
from vigmpi.datasets.held_out import HeldOut
from vigmpi.datasets.soft_labels import SoftLabels
from vigmpi.errors import InputError
from vigmpi.host import matmul_library
from vigmpi.layout.split import check_number_of_stages, split_after, split_by_time, split_layers
from vigmpi.models import MODELS
from vigmpi.models.config import ModelConfig
from vigmpi.models.layer import Layer
from vigmpi.models.model import Model, make_layers
from vigmpi.monitor.activity import Activity
from vigmpi.phase import Phase
from vigmpi.pipeline.layer_times import layer_times
from vigmpi.pipeline.loader import Loader, LoaderConfig
from vigmpi.pipeline.memory_forecast import (
    Forecast,
    check_least_memory,
    forecast_large_images,
    forecast_memory,
    measured_size,
    refusing_what_cannot_be_allocated,
)
from vigmpi.pipeline.pipeline import Pipeline, PipelineConfig
from vigmpi.position import Position

# Default epochs: ten of the digits, and half an hour of the study's model on CIFAR-10.
_DEFAULT_IMAGES, _MIN_EPOCHS, _MAX_EPOCHS = 15_000, 3, 10
# A model that separated two classes of 600 images had learned nothing by its running statistics
# after 30 steps, and everything after 90 (analysis/README.md).
FEW_STEPS = 90


@dataclass(frozen=True)
class Run:
    """Objects that one rank needs for a run.

    Attributes:
        ranks: the columns of `vigmpi.record.columns.RANKS`, each [ranks].
        core_warning: warning of `commands.threads.Threads`.
    """

    topology: Topology
    dataset: Dataset
    augmentation: Augmentation
    model_config: ModelConfig
    pipeline: Pipeline
    loader: Loader
    forecast: Forecast
    ranks: dict[str, np.ndarray]
    activity: Activity
    core_warning: str


def open_run(group: RankGroup, activity: Activity, *, training: bool) -> Run:
    """Open the data set and build this rank's part of the pipeline. Collective.

    Raises:
        InputError: if the data or the split cannot be used or the memory does not suffice (on all
            ranks).
    """
    config = group.config
    topology = make_topology(group.world, config.layout)
    group.comms = topology.comms
    threads = set_threads(config, topology)
    dataset = _open_dataset(config, topology, activity, training=training)
    # The same on all ranks, whose processors may differ, and kept when the run is resumed.
    library = allgather_strings(topology.world, config.matmul or matmul_library())[0]
    if "matmul" in MODELS[config.model].options:
        config = replace(config, matmul=library)
    if training and not config.epochs:
        epochs = default_epochs(dataset.num_images[Phase.TRAIN], config.global_batch_size)
        config = replace(config, epochs=epochs)
        config.check()
    group.config = config
    model_config = ModelConfig(dataset.num_classes, dataset.image_size, **config.model_options)
    size = "x".join(map(str, dataset.image_size))
    subject = f"--model {config.model} and images of {size} pixels"
    make = partial(make_layers, config.model, backend=config.backend, seed=config.seed)
    measured_config = replace(
        model_config,
        image_size=measured_size(model_config.image_size, MODELS[config.model].multiple),
    )
    with raise_collectively(topology.world), refusing_what_cannot_be_allocated(subject):
        layers, measured = make(model_config), make(measured_config)
    if training:
        check_micro_batches(config, dataset.num_images[Phase.TRAIN], layers, _start(group))
    pipeline_config = _pipeline_config(group, layers, measured, topology, training=training)
    with raise_collectively(topology.world), refusing_what_cannot_be_allocated(subject):
        check_least_memory(pipeline_config, topology.place.stage, subject)
    model, forecast = _build_stage(topology, pipeline_config, measured, averages=config.ema > 0)
    augmentation = _augmentation(config, dataset, topology)
    order = LoaderConfig(
        config.batch_size,
        config.seed,
        config.limits,
        augmentation,
        SoftLabels(config.label_smoothing, config.mixup, config.seed),
        config.drop_last,
    )
    return Run(
        topology=topology,
        dataset=dataset,
        augmentation=augmentation,
        model_config=model_config,
        pipeline=Pipeline(topology, pipeline_config, model, activity),
        loader=Loader(
            dataset, config.layout, topology.world.rank, pipeline_config.layers[0].inputs, order
        ),
        forecast=forecast,
        ranks=rank_columns(topology, pipeline_config, threads.number, forecast.rank),
        activity=activity,
        core_warning=threads.warning,
    )


def _build_stage(
    topology: Topology, config: PipelineConfig, measured: list[Layer], *, averages: bool
) -> tuple[Model, Forecast]:
    """Build this rank's layers if the memory suffices. Collective.

    Args:
        measured: the same layers for images of `measured_size`.
        averages: whether the training keeps moving averages of the weights.
    """
    layers = config.stage_layers(topology.place.stage)
    if measured[0].inputs == config.layers[0].inputs:
        model = Model(layers)
        with raise_collectively(topology.world):
            return model, forecast_memory(topology, config, model, averages=averages)
    with raise_collectively(topology.world):
        forecast = forecast_large_images(topology, config, measured, averages=averages)
    return Model(layers), forecast


def default_epochs(num_images: int, batch_size: int) -> int:
    """Return the number of epochs if none is given.

    Args:
        num_images: number of training images.
        batch_size: images per mini-batch of all replicas.
    """
    epochs = min(max(_MIN_EPOCHS, -(-_DEFAULT_IMAGES // num_images)), _MAX_EPOCHS)
    steps = max(1, num_images // batch_size)  # complete mini-batches of an epoch
    return max(epochs, -(-FEW_STEPS // steps))


def _start(group: RankGroup) -> Position:
    """Return the position at which training will start, unless its checkpoint is damaged."""
    if group.committed:
        return group.committed.position
    return group.config.start.position if group.config.start else Position()


def _pipeline_config(
    group: RankGroup,
    layers: list[Layer],
    measured: list[Layer],
    topology: Topology,
    *,
    training: bool,
) -> PipelineConfig:
    """Divide the layers into stages; a measured split becomes the group's. Collective.

    Args:
        measured: the same layers for images of `measured_size`.
    """
    config = group.config
    group.layer_seconds = seconds = _known_times(group, len(layers))
    if config.split_after is not None:
        stages = split_after(layers, config.stages, config.split_after)
    elif config.split == MEASURED:
        check_number_of_stages(layers, config.stages)
        if seconds is None:
            seconds = _measured_times(config, measured, topology, training=training)
        relevant = seconds if training else seconds[:, :1]
        stages = split_by_time(layers, config.stages, relevant.sum(axis=1).tolist())
    else:
        assert not isinstance(config.split, str)
        stages = split_layers(layers, config.stages, config.split)
    schedule = config.schedule if training else None
    divided = PipelineConfig(config.layout, layers, stages, config.batch_size, schedule, seconds)
    if config.split == MEASURED:  # ranks that continue without others keep their stages
        group.config = replace(config, split=None, split_after=tuple(divided.cuts))
        group.layer_seconds = seconds
    return divided


def _known_times(group: RankGroup, num_layers: int) -> np.ndarray | None:
    """Return the times of the layers that this run or its checkpoint measured, [layers, 2]."""
    start = group.config.start
    if group.layer_seconds is not None or not (start and start.manifest):
        return group.layer_seconds
    names = ("measured_forward_s", "measured_backward_s")
    seconds = [start.manifest.settings.get(name, []) for name in names]
    return np.array(seconds).T if len(seconds[0]) == len(seconds[1]) == num_layers else None


def _measured_times(
    config: RunConfig, layers: Sequence[Layer], topology: Topology, *, training: bool
) -> np.ndarray:
    """Return the times of the layers, which rank 0 measures while the others wait. Collective."""
    seconds = np.zeros((len(layers), 2))
    if topology.world.rank == 0:
        num_images = max(config.layout.micro_batch_sizes(config.global_batch_size))
        seconds = layer_times(layers, num_images, training=training)
    return allgather_rows(topology.world, seconds)[0]


def _open_dataset(
    config: RunConfig, topology: Topology, activity: Activity, *, training: bool
) -> Dataset:
    """Open the data set that rank 0 chooses and load what each rank needs. Collective.

    In training, the images of `--holdout` take the place of the test images.
    """
    name = config.dataset or default_dataset(config.data_dir)
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


def _augmentation(config: RunConfig, dataset: Dataset, topology: Topology) -> Augmentation:
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
