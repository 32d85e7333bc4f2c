"""Schedules on real ranks: least times, buffers, tapes and results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from torch import Tensor

from tests.conftest import OnRanks
from tests.mpi.small import Noise, global_loss, make_training, on_first_ranks
from tests.sleeping import sleeping_layers
from tests.two_in_flight import two_in_flight
from vigmpi.comm.progress_thread import progress_thread
from vigmpi.layout.layout import Layout
from vigmpi.phase import Phase
from vigmpi.position import Position
from vigmpi.record.ledger import least_seconds
from vigmpi.schedule import SCHEDULES
from vigmpi.schedule.program import dependencies

FORWARD_S, BACKWARD_S = 0.02, 0.03
TOLERANCE = 0.15


def step_seconds(
    stages: int, chunks: int, schedule: str, seconds: Sequence[tuple[float, float]]
) -> tuple[list[float], float]:
    """Time a few training steps of a sleeping pipeline, whose blocks are one per stage.

    Returns:
        The seconds of each step after the first on the slowest rank, without its wait for data,
        and the least time of the schedule.
    """
    layout = Layout(stages, 1, chunks)
    topology = on_first_ranks(layout)
    assert topology
    layers = sleeping_layers(seconds, (3, *Noise.image_size))
    training = make_training(topology, layout, chunks, schedule=schedule, layers=layers)
    measured = []
    with progress_thread(topology.world):
        for own, _ in zip(training.run(Position()), range(3), strict=False):
            record = own.gather(topology.world, stop=False, checkpoint=False)
            measured.append(float((record.timing("step_s") - record.timing("data_s")).max()))
    forward, backward = np.array(seconds).T[:, None]
    work = dependencies(training.pipeline.config.programs(chunks))
    return measured[1:], float(least_seconds(work, forward, backward)[0])


def compare_with_the_least_time(stages: int, chunks: int, schedule: str, uneven: bool) -> None:
    SCHEDULES["two"] = two_in_flight
    pairs = [(FORWARD_S, BACKWARD_S)] * stages
    if uneven:
        pairs[stages // 2] = (2 * FORWARD_S, BACKWARD_S)
    measured, least = step_seconds(stages, chunks, schedule, pairs)
    if schedule == "gpipe" and not uneven:
        assert abs(least - (chunks + stages - 1) * (FORWARD_S + BACKWARD_S)) < 1e-9
    assert min(measured) < (1 + TOLERANCE) * least, (measured, least)
    assert min(measured) > (1 - TOLERANCE) * least, (measured, least)
    del SCHEDULES["two"]


@pytest.mark.parametrize(
    ("schedule", "stages", "chunks", "uneven"),
    [
        ("gpipe", 2, 4, False),
        ("gpipe", 4, 3, False),  # fewer micro-batches than stages
        ("two", 4, 6, True),
        *(
            pytest.param(schedule, *case, marks=pytest.mark.slow)
            for schedule in ("gpipe", "two")
            for case in ((8, 8, False), (8, 5, True), (4, 6, True), (2, 4, False))
        ),
    ],
)
def test_a_pipeline_takes_the_least_time_of_its_schedule(
    on_ranks: OnRanks, schedule: str, stages: int, chunks: int, uneven: bool
) -> None:
    arguments = {"stages": stages, "chunks": chunks, "schedule": schedule, "uneven": uneven}
    on_ranks(stages, compare_with_the_least_time, **arguments)


def count_buffers_and_tapes(schedule: str, chunks: int, slots: int, tapes: int) -> None:
    SCHEDULES["two"] = two_in_flight
    topology = on_first_ranks(Layout(2, 1, chunks))
    assert topology
    training = make_training(topology, Layout(2, 1, chunks), 2 * chunks, schedule=schedule)
    stage, held = training.pipeline._stage, []
    forward = stage.forward

    def counted(*arguments: Any) -> Tensor:
        output = forward(*arguments)
        held.append(len(stage._tapes))
        return output

    with patch.object(stage, "forward", counted):
        list(training.run(Position()))
    first = topology.place.stage == 0
    assert max(held) == (tapes if first else min(tapes, 1 if schedule == "two" else chunks))
    _, _, features_in, features_out, gradients_in, gradients_out = training.pipeline._channels
    crossing = (features_out, gradients_in) if first else (features_in, gradients_out)
    outside = (features_in, gradients_out) if first else (features_out, gradients_in)
    assert [len(box._buffers) for box in crossing] == [slots] * 2
    assert [len(box._buffers) for box in outside] == [0] * 2
    list(training.run(Position(phase=Phase.TEST)))  # uses the same buffers
    del SCHEDULES["two"]


@pytest.mark.parametrize(("schedule", "slots", "tapes"), [("gpipe", 5, 5), ("two", 2, 2)])
def test_a_schedule_determines_the_numbers_of_buffers_and_of_tapes(
    on_ranks: OnRanks, schedule: str, slots: int, tapes: int
) -> None:
    arguments = {"schedule": schedule, "chunks": 5, "slots": slots, "tapes": tapes}
    on_ranks(2, count_buffers_and_tapes, **arguments)


def train(folder: str, schedule: str, stages: int) -> None:
    SCHEDULES["two"] = two_in_flight
    layout = Layout(stages, 1, 5)
    if topology := on_first_ranks(layout):
        training = make_training(topology, layout, 9, schedule=schedule)
        losses = [global_loss(topology, record) for record in training.run(Position())]
        state = {key: value.numpy() for key, value in training.model.state_dict().items()}
        np.savez(f"{folder}/{schedule}-{topology.place.stage}", **state, allow_pickle=False)
        np.save(f"{folder}/{schedule}-losses", losses)
    del SCHEDULES["two"]


def test_losses_and_weights_do_not_depend_on_the_schedule(
    on_ranks: OnRanks, tmp_path: Path
) -> None:
    for schedule in ("gpipe", "two"):
        on_ranks(2, train, folder=str(tmp_path), schedule=schedule, stages=2)
    for name in ("losses.npy", "0.npz", "1.npz"):
        gpipe, two = (np.load(tmp_path / f"{schedule}-{name}") for schedule in ("gpipe", "two"))
        if name == "losses.npy":
            np.testing.assert_array_equal(gpipe, two)
            continue
        assert gpipe.keys() == two.keys()
        for key in gpipe:
            np.testing.assert_array_equal(gpipe[key], two[key], err_msg=key)
