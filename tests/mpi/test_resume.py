"""Resumed runs equal the run that was never stopped, bit for bit."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import OnRanks
from tests.mpi.small import Training, global_loss, make_training, on_first_ranks
from vigmpi.checkpoint import manifest
from vigmpi.checkpoint.folder import CheckpointFolder
from vigmpi.checkpoint.manifest import Manifest
from vigmpi.checkpoint.shards import load
from vigmpi.comm.topology import Topology
from vigmpi.layout.layout import Layout
from vigmpi.pipeline.state import model_state
from vigmpi.position import Position

EPOCHS = 2
Losses = list[float]


def make_manifest(position: Position) -> Manifest:
    return Manifest("run", position.mini_batches, position, {}, (6, 5), ["a", "b"])


def train_from(
    training: Training, topology: Topology, start: Position
) -> Iterator[tuple[Position, float]]:
    while start.epoch < EPOCHS:
        for result in training.run(start):
            start = start.after(result.num_images)
            yield start, global_loss(topology, result)
        start = start.next_phase()


def checkpoint_and_resume_everywhere(folder: str, other: list[int]) -> None:
    """Checkpoint after every mini-batch of a 2x2 run; resume from each in the `other` layout."""
    layout = Layout(stages=2, replicas=2, chunks=2)
    topology = on_first_ranks(layout)
    assert topology
    training = make_training(topology, layout, batch_size=4)
    positions, losses = [], []
    for position, loss in train_from(training, topology, Position()):
        positions.append(position)
        losses.append(loss)
        checkpoints = CheckpointFolder(topology.world, Path(folder) / str(position.mini_batches), 1)
        checkpoints.save(training.trainer.shard(), make_manifest(position))
    layout = Layout(*other)
    if other_topology := on_first_ranks(layout):
        for done, position in enumerate(positions, 1):
            _resume(Path(folder), position, other_topology, layout, losses[done:])


def _resume(
    folder: Path, position: Position, topology: Topology, layout: Layout, expected: Losses
) -> None:
    found = manifest.find(str(folder / str(position.mini_batches)), None)
    last = manifest.find(str(folder / str(len(list(folder.iterdir())))), None)
    assert found
    assert found.manifest
    assert last
    assert last.manifest
    assert found.manifest.position == position
    training = make_training(topology, layout, batch_size=4 * 2 // layout.replicas)
    trainer = training.trainer
    for weight in trainer.model.parameters():
        weight.data.fill_(7)
    shapes = trainer.shapes(True)
    trainer.load(load(found.path, found.manifest, shapes))
    losses = [loss for _, loss in train_from(training, topology, position)]
    assert losses == expected
    final = load(last.path, last.manifest, shapes)
    for name, values in model_state(trainer.model).items():
        np.testing.assert_array_equal(values, final[name], err_msg=name)


@pytest.mark.parametrize("other", [[2, 2, 2], pytest.param([1, 2, 2], marks=pytest.mark.slow)])
def test_resume_is_bitwise_identical_at_any_mini_batch_and_number_of_stages(
    on_ranks: OnRanks, tmp_path: Path, other: list[int]
) -> None:
    on_ranks(4, checkpoint_and_resume_everywhere, folder=str(tmp_path), other=other)
