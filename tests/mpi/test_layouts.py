from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from tests.conftest import OnRanks
from tests.mpi.small import global_loss, make_training, on_first_ranks
from tests.mpi.test_reductions import TWO_HOSTS
from vigmpi.datasets.augmentation import Augmentation
from vigmpi.layout.layout import Layout, Place
from vigmpi.phase import Phase
from vigmpi.pipeline.trainer import TrainerConfig
from vigmpi.position import Position


class Synchronous(MPI.Intracomm):
    """Communicator whose sends complete only once their receives have been posted."""

    Isend = MPI.Intracomm.Issend


AUGMENTATION = Augmentation(True, 2, np.full(3, 0.4), np.full(3, 0.3), seed=3)


def train(
    folder: str,
    layouts: list[list[int]],
    synchronous: bool = False,
    augmented: bool = False,
    gradient_sum: str = "allreduce",
) -> None:
    """Train two epochs in each layout; the first replica saves weights, rank 0 the losses."""
    augmentation = AUGMENTATION if augmented else Augmentation()
    for stages, replicas, chunks, batch_size in layouts:
        layout = Layout(stages, replicas, chunks)
        if topology := on_first_ranks(layout):
            if synchronous:
                topology = replace(topology, pipeline=Synchronous(topology.pipeline))
            training = make_training(
                topology,
                layout,
                batch_size,
                trainer=TrainerConfig(lr=1e-3, gradient_sum=gradient_sum),
                augmentation=augmentation,
            )
            losses = [
                global_loss(topology, result)
                for epoch in range(2)
                for phase in Phase
                for result in training.run(Position(epoch=epoch, phase=phase))
            ]
            assert not training.trainer.replica_difference()
            name = f"{folder}/{stages}-{replicas}-{chunks}"
            if topology.place.replica == 0:
                state = {key: value.numpy() for key, value in training.model.state_dict().items()}
                np.savez(f"{name}-{topology.place.stage}", **state, allow_pickle=False)
            if topology.world.rank == 0:
                np.save(f"{name}-losses", np.array(losses))


def _state(folder: Path, layout: str) -> dict[str, np.ndarray]:
    state: dict[str, np.ndarray] = {}
    for path in folder.glob(f"{layout}-?.npz"):
        state |= dict(np.load(path))
    return state


def _assert_equal_states(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert len(expected) == 8 * 31 + 4
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(actual[name], values, err_msg=name)


def _assert_equal(folder: Path, layouts: list[list[int]], compare: Any) -> None:
    first, *others = [f"{s}-{r}-{c}" for s, r, c, _ in layouts]
    state, losses = _state(folder, first), np.load(folder / f"{first}-losses.npy")
    assert len(state) == 8 * 31 + 4
    for other in others:
        compare(np.load(folder / f"{other}-losses.npy"), losses)
        other_state = _state(folder, other)
        assert other_state.keys() == state.keys()
        for name, values in state.items():
            compare(other_state[name], values, err_msg=f"{other} {name}")


@pytest.mark.parametrize(
    ("replicas", "stages", "augmented"),
    [
        pytest.param(1, [1, 4, 8], False, marks=pytest.mark.slow),
        pytest.param(3, [1, 2], False, marks=pytest.mark.slow),
        pytest.param(4, [1, 2], False, marks=pytest.mark.slow),
        (1, [1, 2], True),
    ],
)
def test_losses_and_weights_are_bitwise_identical_for_any_number_of_stages(
    on_ranks: OnRanks, tmp_path: Path, replicas: int, stages: list[int], augmented: bool
) -> None:
    layouts = [[s, replicas, 3, 5] for s in stages]
    ranks = replicas * stages[-1]
    on_ranks(ranks, train, folder=str(tmp_path), layouts=layouts, augmented=augmented)
    _assert_equal(tmp_path, layouts, np.testing.assert_array_equal)


def test_both_gradient_sums_give_the_same_bits_with_two_replicas(
    on_ranks: OnRanks, tmp_path: Path
) -> None:
    """On the last images of an epoch, one replica has no micro-batch."""
    for gradient_sum in ("allreduce", "ordered"):
        (folder := tmp_path / gradient_sum).mkdir()
        on_ranks(2, train, folder=str(folder), layouts=[[1, 2, 5, 7]], gradient_sum=gradient_sum)
    actual, expected = (_state(tmp_path / name, "1-2-5") for name in ("ordered", "allreduce"))
    _assert_equal_states(actual, expected)


@pytest.mark.slow
def test_the_ordered_gradient_sum_gives_the_same_bits_on_one_host_and_two_for_any_number_of_stages(
    on_ranks: OnRanks, tmp_path: Path
) -> None:
    """MPI's all-reduce does not, if it adds up each host's ranks first (MPICH only)."""
    layouts, states = [[stages, 3, 3, 5] for stages in (1, 2)], []
    for i, (gradient_sum, environ) in enumerate(
        [("ordered", None), ("ordered", TWO_HOSTS), ("allreduce", TWO_HOSTS)]
    ):
        (folder := tmp_path / str(i)).mkdir()
        arguments = {"folder": str(folder), "layouts": layouts, "gradient_sum": gradient_sum}
        on_ranks(6, train, timeout=100, environ=environ, **arguments)
        states += [_state(folder, f"{stages}-3-3") for stages in (1, 2)]
    *ordered, one_stage, two_stages = states
    for state in ordered:
        _assert_equal_states(state, ordered[0])
    assert any((one_stage[name] != two_stages[name]).any() for name in one_stage)


@pytest.mark.parametrize("augmented", [False, True])
def test_replicas_match_one_replica_with_all_their_images_and_chunks(
    on_ranks: OnRanks, tmp_path: Path, augmented: bool
) -> None:
    """Losses, weights after 2 epochs and running statistics agree to fp32 rounding."""
    layouts = [[1, 1, 6, 10], [2, 2, 3, 5], [1, 3, 2, 10 // 3 + 1]][:2]
    on_ranks(4, train, folder=str(tmp_path), layouts=layouts, augmented=augmented)

    def compare(values: np.ndarray, expected: np.ndarray, err_msg: str = "") -> None:
        np.testing.assert_allclose(values, expected, rtol=2e-4, atol=2e-5, err_msg=err_msg)

    _assert_equal(tmp_path, layouts, compare)


def test_training_completes_with_synchronous_sends(on_ranks: OnRanks, tmp_path: Path) -> None:
    """The deadlock check of the schedule holds at run time."""
    layouts = [[2, 2, 5, 5], [4, 1, 2, 4], [4, 1, 6, 8]]
    on_ranks(4, train, folder=str(tmp_path), layouts=layouts, synchronous=True)


def change_one_tensor() -> None:
    layout = Layout(stages=1, replicas=2, chunks=1)
    if topology := on_first_ranks(layout):
        trainer = make_training(topology, layout, batch_size=4).trainer
        assert not trainer.replica_difference()
        for name, tensor in trainer.stage_state().items():
            before = tensor.copy()
            if topology.place.replica == 1:
                tensor.flat[-1] += 1
            difference = trainer.replica_difference()
            assert difference == f"{name} of replica 1 is not that of replica 0"
            tensor[...] = before
        assert not trainer.replica_difference()
    layout = Layout(stages=2, replicas=2, chunks=1)
    topology = on_first_ranks(layout)
    assert topology
    trainer = make_training(topology, layout, batch_size=4).trainer
    if topology.place == Place(replica=1, stage=1):
        next(iter(trainer.stage_state().values())).flat[0] += 1
    difference = trainer.replica_difference()  # on all ranks
    name = difference.removesuffix(" of replica 1 is not that of replica 0")
    assert (name in trainer.stage_state()) == (topology.place.stage == 1), difference


def test_a_difference_between_replicas_in_any_tensor_is_named(on_ranks: OnRanks) -> None:
    on_ranks(4, change_one_tensor)
