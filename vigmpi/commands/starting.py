"""Loading of the checkpoint from which a run starts."""

import hashlib
from collections.abc import Callable, Mapping

import numpy as np

from vigmpi.checkpoint.manifest import Checkpoint
from vigmpi.checkpoint.weights import read_values
from vigmpi.comm.collectives import all_equal, raise_collectively
from vigmpi.comm.topology import Topology
from vigmpi.errors import InputError
from vigmpi.position import Position

Shapes = Mapping[str, tuple[int, ...]]


def start_from(
    checkpoint: Checkpoint | None,
    topology: Topology,
    shapes: Callable[[bool], Shapes],
    load: Callable[[Mapping[str, np.ndarray]], None],
) -> Position:
    """Load this rank's stage from a checkpoint and return its position. Collective.

    Args:
        shapes: function that returns the shapes of the stage's tensors, by name, with or without
            the optimizer's.
        load: function that takes these tensors.

    Raises:
        InputError: if it is damaged, of another model, or differs between ranks (on all ranks).
    """
    world = topology.world
    content = repr((checkpoint.path, checkpoint.manifest) if checkpoint else None)
    if not all_equal(world, hashlib.sha256(content.encode()).digest()):
        path = checkpoint.path if checkpoint else "none"
        raise InputError(
            f"checkpoints differ between ranks: rank {world.rank} found {path}. Use a "
            f"--checkpoint-dir that all hosts share."
        )
    if checkpoint is None:
        return Position()
    manifest = checkpoint.manifest
    with raise_collectively(world):
        load(read_values(checkpoint, shapes(manifest is not None)))
    return manifest.position if manifest else Position()
