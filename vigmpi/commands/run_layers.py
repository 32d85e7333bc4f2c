"""The layers of a run, their division into stages, and those of this rank."""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from vigmpi.cli.config import RunConfig
from vigmpi.cli.values import MEASURED
from vigmpi.comm.collectives import allgather_rows, allgather_strings, raise_collectively
from vigmpi.comm.topology import Topology
from vigmpi.commands.rank_group import RankGroup
from vigmpi.errors import InputError
from vigmpi.host import matmul_library
from vigmpi.layout.split import check_number_of_stages, split_after, split_by_time, split_layers
from vigmpi.models import MODELS
from vigmpi.models.allocation import refusing_what_cannot_be_allocated
from vigmpi.models.config import ModelConfig
from vigmpi.models.layer import Layer
from vigmpi.models.model import Model, make_layers
from vigmpi.monitor.activity import Activity
from vigmpi.parallel_graphs.lattice_strip import LatticeStrip
from vigmpi.pipeline.layer_times import layer_times
from vigmpi.pipeline.memory_forecast import (
    Forecast,
    check_least_memory,
    forecast_large_images,
    forecast_memory,
    measured_size,
)
from vigmpi.pipeline.pipeline import PipelineConfig


class RunLayers(NamedTuple):
    """Layers of the complete model.

    Attributes:
        full: for the images of the run.
        measured: for images of `measured_size`, on which time and memory are measured.
        subject: the options that determine their size, for an error message.
    """

    full: list[Layer]
    measured: list[Layer]
    subject: str


def choose_library(config: RunConfig, topology: Topology) -> RunConfig:
    """Choose the library of matrix products, if the model has a choice. Collective.

    It is rank 0's choice: processors may differ, and a run that is resumed keeps it.
    """
    library = allgather_strings(topology.world, config.matmul or matmul_library())[0]
    return replace(config, matmul=library) if "matmul" in MODELS[config.model].options else config


def make_run_layers(
    config: RunConfig, model_config: ModelConfig, topology: Topology, activity: Activity
) -> RunLayers:
    """Return the layers of a run. Collective.

    Raises:
        InputError: if the model does not take the options or the parts, or is too large (on all
            ranks).
    """
    height, width = size = model_config.image_size
    parts = topology.parts
    if parts.size > height:
        raise InputError(
            f"too many parts: --parts {parts.size} for images of {height} rows. Use --parts "
            f"{height} or fewer."
        )
    subject = f"--model {config.model} and images of {'x'.join(map(str, size))} pixels"
    make = partial(
        make_layers,
        config.model,
        backend=config.backend,
        seed=config.seed,
        recompute=config.recompute,
    )
    with raise_collectively(topology.world), refusing_what_cannot_be_allocated(subject):
        graph = None
        if parts.size > 1:
            graph = LatticeStrip(height, width, parts, activity.exchange_with_parts)
            size = graph.num_rows, width
        measured = measured_size(size, MODELS[config.model].multiple)
        smaller = make(replace(model_config, image_size=measured))
        return RunLayers(make(model_config, graph=graph), smaller, subject)


def divide_layers(
    group: RankGroup, run_layers: RunLayers, topology: Topology, *, training: bool
) -> PipelineConfig:
    """Divide the layers into stages; a measured split becomes the group's. Collective."""
    config, layers = group.config, run_layers.full
    group.layer_seconds = seconds = _known_times(group, len(layers))
    if config.split_after is not None:
        stages = split_after(layers, config.stages, config.split_after)
    elif config.split == MEASURED:
        check_number_of_stages(layers, config.stages)
        if seconds is None:
            seconds = _measured_times(config, run_layers.measured, topology, training=training)
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


def build_stage(
    topology: Topology,
    config: PipelineConfig,
    run_layers: RunLayers,
    *,
    averages: bool,
    check: bool = True,
) -> tuple[Model, Forecast]:
    """Build this rank's layers if the memory suffices. Collective.

    Args:
        averages: whether the training keeps moving averages of the weights.
        check: whether to raise an error if the memory does not suffice.

    Raises:
        InputError: if it does not suffice (on all ranks).
    """
    _, measured, subject = run_layers
    with raise_collectively(topology.world), refusing_what_cannot_be_allocated(subject):
        if check:
            check_least_memory(config, topology.place.stage, subject)
    layers = config.stage_layers(topology.place.stage)
    # A part of a model cannot run alone.
    if measured[0].inputs == config.layers[0].inputs and topology.parts.size == 1:
        model = Model(layers)
        with raise_collectively(topology.world):
            return model, forecast_memory(topology, config, model, averages=averages, check=check)
    with raise_collectively(topology.world):
        forecast = forecast_large_images(topology, config, measured, averages=averages, check=check)
    with raise_collectively(topology.world), refusing_what_cannot_be_allocated(subject):
        model = Model(layers)
    return model, forecast


def _known_times(group: RankGroup, num_layers: int) -> np.ndarray | None:
    """Return the times of the layers that this run or its checkpoint measured, [layers, 2]."""
    start = group.config.start
    if group.layer_seconds is not None or not (start and start.manifest):
        return group.layer_seconds
    names = ("measured_forward_s", "measured_backward_s")
    seconds = [start.manifest.settings.get(name, []) for name in names]
    return np.array(seconds).T if len(seconds[0]) == len(seconds[1]) == num_layers else None


def _measured_times(
    config: RunConfig, layers: list[Layer], topology: Topology, *, training: bool
) -> np.ndarray:
    """Return the times of the layers, which rank 0 measures while the others wait. Collective."""
    seconds = np.zeros((len(layers), 2))
    num_images = max(config.layout.micro_batch_sizes(config.global_batch_size))
    subject = f"--split measured and micro-batches of {num_images} images"
    remedy = "a smaller --batch-size, more --chunks, or --split with numbers"
    with (
        raise_collectively(topology.world),
        refusing_what_cannot_be_allocated(subject, remedy),
    ):
        if topology.world.rank == 0:
            seconds = layer_times(layers, num_images, training=training)
    return allgather_rows(topology.world, seconds)[0]
