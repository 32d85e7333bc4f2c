"""Loading of the checkpoint from which a run starts, on all its ranks."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

from mpi4py import MPI
from torch import Tensor

from vigmpi.checkpoint.loading import load
from vigmpi.checkpoint.manifest import DamagedError, read
from vigmpi.checkpoint.search import Checkpoint, newer
from vigmpi.checkpoint.state import ByLayer, Names
from vigmpi.comm.collectives import allgather_strings, raise_collectively
from vigmpi.comm.topology import Topology


def start_from(
    checkpoint: Checkpoint | None, topology: Topology, own: ByLayer[Tensor]
) -> Checkpoint | None:
    """Load this rank's stage, and return the checkpoint as `load` does. Collective.

    Args:
        checkpoint: the same on all ranks.
        own: state of the stage, with the optimizer's if the run trains.

    Raises:
        InputError: if it is damaged or of another model (on all ranks).
    """
    if checkpoint is None:
        return None
    world = topology.world
    names = _names_of_model(topology.pipeline, own)
    together = partial(raise_collectively, world)
    checkpoint = _newer(checkpoint, world) or checkpoint
    try:
        return load(checkpoint, names, own, together)
    except DamagedError:
        if not (instead := _newer(checkpoint, world)):
            raise
    return load(instead, names, own, together)


def _newer(checkpoint: Checkpoint, world: MPI.Comm) -> Checkpoint | None:
    """Return what rank 0 finds in place of a checkpoint that has been removed. Collective."""
    found = newer(checkpoint) if world.rank == 0 else None
    path = Path(allgather_strings(world, str(found.path) if found else "")[0])
    if path == Path():
        return None
    with raise_collectively(world):
        manifest = read(path)
    return replace(checkpoint, path=path, manifest=manifest, older=())


def _names_of_model(pipeline: MPI.Comm, own: ByLayer[Tensor]) -> Names:
    """Return the names of all stages' tensors by layer. Collective over the stages."""
    names = {layer: list(tensors) for layer, tensors in own.items()}
    stages = map(json.loads, allgather_strings(pipeline, json.dumps(names)))
    return {layer: tensors for stage in stages for layer, tensors in stage.items()}
