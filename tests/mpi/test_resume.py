"""Resumed runs equal the run that was never stopped, bit for bit."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.conftest import OnRanks
from tests.mpi.small import CONFIG, Training, global_loss, make_training, on_first_ranks
from tests.weights import flip_a_bit, verified_weights
from vigmpi.checkpoint.folder import CheckpointFolder
from vigmpi.checkpoint.manifest import Manifest
from vigmpi.checkpoint.search import Checkpoint, find
from vigmpi.checkpoint.starting import start_from
from vigmpi.comm.collectives import allgather_bytes
from vigmpi.comm.topology import Topology
from vigmpi.errors import InputError
from vigmpi.layout.layout import Layout
from vigmpi.models.config import ModelConfig
from vigmpi.models.study.layers import study_layers
from vigmpi.pipeline.evaluator import Evaluator
from vigmpi.position import Position

EPOCHS = 2
Losses = list[float]


def make_manifest(position: Position) -> Manifest:
    created, config = float(position.mini_batches), ModelConfig(2)
    return Manifest("run", created, position, {}, "study", config, ["a", "b"])


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
    found = find(str(folder / str(position.mini_batches)))
    last = find(str(folder / str(len(list(folder.iterdir())))), None)
    assert found
    assert last
    assert found.position == position
    training = make_training(topology, layout, batch_size=4 * 2 // layout.replicas)
    trainer = training.trainer
    for weight in trainer.model.parameters():
        weight.data.fill_(7)
    assert start_from(found, topology, trainer.state()) == replace(found, older=())
    losses = [loss for _, loss in train_from(training, topology, position)]
    assert losses == expected
    final = verified_weights(last.path)
    for name, values in trainer.stage_state().items():
        np.testing.assert_array_equal(values, final[name], err_msg=name)


@pytest.mark.parametrize("other", [[2, 2, 2], pytest.param([1, 2, 2], marks=pytest.mark.slow)])
def test_resume_is_bitwise_identical_at_any_mini_batch_and_number_of_stages(
    on_ranks: OnRanks, tmp_path: Path, other: list[int]
) -> None:
    on_ranks(4, checkpoint_and_resume_everywhere, folder=str(tmp_path), other=other)


TWO_STAGES, ONE_STAGE = Layout(2, 1, 1), Layout(1, 1, 1)


def make_checkpoints(folder: Path, numbers: list[int]) -> Training:
    """Save checkpoints of two stages whose tensors are full of their number."""
    topology = on_first_ranks(TWO_STAGES)
    assert topology
    training = make_training(topology, TWO_STAGES, batch_size=4)
    checkpoints = CheckpointFolder(topology.world, folder, keep=9)
    for number in numbers:
        fill(training, number)
        checkpoints.save(training.trainer.shard(), make_manifest(Position(number)))
    fill(training, -1)
    return training


def fill(training: Training, number: int) -> None:
    for values in training.trainer.stage_state().values():
        values.fill(number)


def full_of(training: Training) -> float:
    """Return the number of which all tensors are full."""
    [number] = {float(v) for values in training.trainer.stage_state().values() for v in values.flat}
    return number


def newest(folder: Path) -> Checkpoint:
    found = find("latest", [folder])
    assert found
    return found


@contextmanager
def counting_opened_shards(names: list[str]) -> Iterator[None]:
    """Add the name of every shard that Python opens meanwhile, by whatever function."""
    active = True

    def hook(event: str, arguments: tuple) -> None:
        if active and event == "open" and str(arguments[0]).endswith(".safetensors"):
            names.append(Path(arguments[0]).name)

    sys.addaudithook(hook)  # it stays as long as the process
    try:
        yield
    finally:
        active = False


def count_reads(folder: str) -> None:
    training = make_checkpoints(Path(folder), [1])
    topology = training.pipeline.topology
    rank = topology.world.rank
    for state in (training.trainer.state(), Evaluator(training.pipeline).state()):
        opened: list[str] = []
        with counting_opened_shards(opened):
            start_from(newest(Path(folder)), topology, state)
        assert opened == [f"{rank}.safetensors"]
    assert full_of(training) == 1
    if alone := on_first_ranks(ONE_STAGE):
        training = make_training(alone, ONE_STAGE, batch_size=4)
        with counting_opened_shards(opened := []):
            start_from(newest(Path(folder)), alone, training.trainer.state())
        assert opened == ["0.safetensors", "1.safetensors"]
        assert full_of(training) == 1


def test_a_rank_opens_each_shard_that_it_needs_once_and_no_other(
    on_ranks: OnRanks, tmp_path: Path
) -> None:
    on_ranks(2, count_reads, folder=str(tmp_path))


def turn_to_older_checkpoints(folder: str) -> None:
    training = make_checkpoints(Path(folder), [1, 2, 3, 4])
    topology = training.pipeline.topology
    world, state = topology.world, training.trainer.state()
    found = newest(Path(folder))
    world.Barrier()  # all have found the newest before one damages it
    for rank, number in ((1, 4), (0, 3)):  # each is read by one rank only
        if world.rank == rank:
            flip_a_bit(Path(folder) / f"mini-batch-{number:08}" / f"{rank}.safetensors")
        world.Barrier()
        named = next(each for each in (found, *found.older) if each.position == Position(number))
        with pytest.raises(InputError, match=rf"^damaged checkpoint: .*{number}/{rank}\.safe"):
            start_from(replace(named, older=()), topology, state)
    used = start_from(found, topology, state)
    assert used
    assert used.position.mini_batches == full_of(training) == 2
    assert [reason.rpartition("-")[2] for reason in used.skipped] == [
        f"{number:08}/{rank}.safetensors (truncated or modified)"
        for rank, number in ((1, 4), (0, 3))
    ]
    assert len(set(allgather_bytes(world, repr(used).encode()))) == 1


def test_all_ranks_turn_to_the_next_checkpoint_if_one_of_them_finds_a_damaged_shard(
    on_ranks: OnRanks, tmp_path: Path
) -> None:
    on_ranks(2, turn_to_older_checkpoints, folder=str(tmp_path))


def load_another_model(folder: str) -> None:
    training = make_checkpoints(Path(folder), [1])
    topology = training.pipeline.topology
    layers = study_layers(replace(CONFIG, head_hidden=CONFIG.head_hidden + 1))  # on rank 1
    other = make_training(topology, TWO_STAGES, 4, layers=layers).trainer.state()
    with pytest.raises(
        InputError, match=r"has fc1\.weight of shape \[12, 3\] instead of \[13, 3\]"
    ):
        start_from(newest(Path(folder)), topology, other)


def test_another_model_on_one_stage_is_refused_on_all_ranks(
    on_ranks: OnRanks, tmp_path: Path
) -> None:
    on_ranks(2, load_another_model, folder=str(tmp_path))


def start_from_weights(folder: str) -> None:
    training = make_checkpoints(Path(folder), [1])
    topology, trainer = training.pipeline.topology, training.trainer
    tensors = verified_weights(newest(Path(folder)).path)
    weights = {name: v for name, v in tensors.items() if not name.startswith("optimizer.")}
    for name, content, problem in (
        ("a", weights | {"tail.bias": np.zeros(1)}, r"tensor tail\.bias, which the model does not"),
        ("b", {name: weights[name] for name in weights if name != "fc2.bias"}, r"no tensor fc2\."),
        ("c", weights, ""),
    ):
        file = Path(folder) / f"{name}.safetensors"
        if topology.world.rank == 0:
            save_file(content, file)
        topology.world.Barrier()
        if problem:
            with pytest.raises(InputError, match=f"has {problem}"):
                start_from(Checkpoint(file), topology, trainer.state())
            assert full_of(training) == -1
        else:
            assert start_from(Checkpoint(file), topology, trainer.state())
    for name, values in trainer.stage_state().items():
        assert (values == (1 if name in weights else -1)).all(), name


def test_a_weights_only_file_must_hold_the_layers_of_all_stages_and_no_others(
    on_ranks: OnRanks, tmp_path: Path
) -> None:
    on_ranks(2, start_from_weights, folder=str(tmp_path))
