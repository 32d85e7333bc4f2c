"""Metadata of a run for its record: configuration, versions, ranks."""

import os
import platform
import sys
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import h5py
import numpy as np
from mpi4py import MPI

from vigmpi.cli.config import RunConfig
from vigmpi.comm.collectives import allgather_rows, allgather_strings
from vigmpi.comm.topology import Topology
from vigmpi.commands.rank_group import RankGroup
from vigmpi.datasets.dataset import Dataset
from vigmpi.layout.layout import Layout
from vigmpi.models import MODELS
from vigmpi.models.config import OPTIONS
from vigmpi.pipeline.pipeline import PipelineConfig
from vigmpi.versions import installed_version

_PACKAGES = ("vigmpi", "torch", "torch-geometric", "torchvision", "mpi4py", "h5py", "numpy")


def effective_settings(
    config: RunConfig, dataset: Dataset, pipeline_config: PipelineConfig
) -> dict[str, Any]:
    """Return the settings of a command as numbers, strings and lists.

    They include defaults that were chosen at run time.
    """
    others = set(OPTIONS).difference(MODELS[config.model].options)
    settings = {
        f.name: getattr(config, f.name)
        for f in fields(config)
        if config.command in f.metadata.get("commands", ()) and f.name not in others
    }
    settings["dataset"] = dataset.name
    settings["split"] = pipeline_config.blocks_per_stage
    if config.image_size:
        settings["image_size"] = list(config.image_size)
    settings["split_after"] = pipeline_config.cuts if config.split_after else None
    if pipeline_config.layer_seconds is not None:
        forward_s, backward_s = pipeline_config.layer_seconds.T.tolist()
        settings |= {"measured_forward_s": forward_s, "measured_backward_s": backward_s}
    return {
        name: value if isinstance(value, int | float | list) else str(value)
        for name, value in settings.items()
        if value is not None
    }


def run_attributes(
    group: RankGroup, dataset: Dataset, pipeline_config: PipelineConfig
) -> dict[str, dict[str, Any]]:
    """Return the HDF5 attributes of the record by group; "" is the file itself."""
    losses = {
        "lost_at": [loss.mini_batches for loss in group.rank_losses for _ in loss.ranks],
        "lost_ranks": [rank for loss in group.rank_losses for rank in loss.ranks],
    }
    return {
        "": {
            "description": "a run of vigmpi; every dataset carries its unit and meaning",
            "run": group.run,
            "command": " ".join(sys.argv),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "dataset": dataset.description,
            "rank_order": Layout.ORDER,
            **(losses if losses["lost_at"] else {}),
        },
        "configuration": effective_settings(group.initial_config, dataset, pipeline_config),
        "versions": {
            "python": platform.python_version(),
            **{package: installed_version(package) for package in _PACKAGES},
            "hdf5": h5py.version.hdf5_version,
            "mpi": MPI.Get_library_version().splitlines()[0].strip(" \0"),
            "system": platform.platform(),
        },
    }


def rank_columns(
    topology: Topology, pipeline_config: PipelineConfig, threads: int, forecast_rss_bytes: int
) -> dict[str, np.ndarray]:
    """Return the columns of `vigmpi.record.columns.RANKS`, each [ranks]. Collective."""
    stage, blocks = topology.place.stage, pipeline_config.blocks_per_stage
    values = {
        "replica": topology.place.replica,
        "stage": stage,
        "part": topology.place.part,
        "first_layer": pipeline_config.stages[stage].start,
        "num_layers": len(pipeline_config.stages[stage]),
        "first_block": sum(blocks[:stage]),
        "num_blocks": blocks[stage],
        "threads": threads,
        "cores": len(os.sched_getaffinity(0)),
        "pid": os.getpid(),
        "forecast_rss_bytes": forecast_rss_bytes,
    }
    columns = allgather_rows(topology.world, np.array(list(values.values()))).T
    hosts = np.array(allgather_strings(topology.world, platform.node()), dtype="S")
    return dict(zip(values, columns, strict=True)) | {"host": hosts}
