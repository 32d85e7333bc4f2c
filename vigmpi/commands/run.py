"""Setup of a run before its first mini-batch: data, model, memory forecast, pipeline."""

from dataclasses import dataclass, replace

import numpy as np

from vigmpi.cli.config import RunConfig
from vigmpi.comm.topology import Topology, make_topology
from vigmpi.commands.micro_batches import check_micro_batches
from vigmpi.commands.provenance import rank_columns
from vigmpi.commands.rank_group import RankGroup
from vigmpi.commands.run_data import make_augmentation, open_data
from vigmpi.commands.run_layers import build_stage, choose_library, divide_layers, make_run_layers
from vigmpi.commands.threads import set_threads
from vigmpi.datasets.augmentation import Augmentation
from vigmpi.datasets.dataset import Dataset
from vigmpi.datasets.soft_labels import SoftLabels
from vigmpi.models.config import ModelConfig
from vigmpi.monitor.activity import Activity
from vigmpi.phase import Phase
from vigmpi.pipeline.loader import Loader, LoaderConfig
from vigmpi.pipeline.memory_forecast import Forecast
from vigmpi.pipeline.pipeline import Pipeline
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
    topology = make_topology(group.world, group.config.layout)
    group.comms = topology.comms
    threads = set_threads(group.config, topology)
    dataset = open_data(group.config, topology, activity, training=training)
    group.config = config = _resolved(group.config, dataset, topology, training=training)
    model_config = ModelConfig(dataset.num_classes, dataset.image_size, **config.model_options)
    layers = make_run_layers(config, model_config, topology, activity)
    if training:
        check_micro_batches(config, dataset.num_images[Phase.TRAIN], layers.full, _start(group))
    pipeline_config = divide_layers(group, layers, topology, training=training)
    check = config.memory_check == "on"
    model, forecast = build_stage(
        topology, pipeline_config, layers, averages=config.ema > 0, check=check
    )
    augmentation = make_augmentation(config, dataset, topology)
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


def _resolved(
    config: RunConfig, dataset: Dataset, topology: Topology, *, training: bool
) -> RunConfig:
    """Choose the settings that depend on the data or the machine. Collective."""
    config = choose_library(config, topology)
    if config.parts > 1 and config.replicas > 2:
        # MPI could add in another order for each part, and parts must keep the same weights.
        config = replace(config, gradient_sum="ordered")
    if training and not config.epochs:
        epochs = default_epochs(dataset.num_images[Phase.TRAIN], config.global_batch_size)
        config = replace(config, epochs=epochs)
        config.check()
    return config


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
