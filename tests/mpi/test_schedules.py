"""Schedules on real ranks: dependencies, buffers, tapes and results."""

import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from torch import Tensor

from tests.conftest import OnRanks
from tests.mpi.small import Noise, global_loss, make_training, on_first_ranks
from tests.two_in_flight import two_in_flight
from vigmpi.comm.progress_thread import progress_thread
from vigmpi.layout.layout import Layout
from vigmpi.phase import Phase
from vigmpi.position import Position
from vigmpi.schedule import SCHEDULES
from vigmpi.schedule.action import Action, Kind
from vigmpi.schedule.program import dependencies

HELD_BACK_S = 60


def with_ancestors(work: Iterable[tuple[Action, list[int]]]) -> list[set[Action]]:
    """Return each action together with all actions on which it depends."""
    closures: list[set[Action]] = []
    for action, direct in work:
        closures.append({action}.union(*(closures[i] for i in direct)))
    return closures


def hold_back(folder: str, stages: int, chunks: int, schedule: str) -> None:
    """Run one step for each forward and backward; all on which it does not depend waits for it."""
    SCHEDULES["two"] = two_in_flight
    layout = Layout(stages, 1, chunks)
    topology = on_first_ranks(layout)
    assert topology
    training = make_training(topology, layout, chunks, schedule=schedule)
    stage = training.pipeline._stage
    work = dependencies(training.pipeline.config.programs(chunks))
    original: dict[Kind, Callable[..., Tensor | None]] = {
        Kind.FORWARD: stage.forward,
        Kind.BACKWARD: stage.backward,
    }

    def run(kind: Kind, number: int, *arguments: Any) -> Tensor | None:
        action = Action(topology.place.stage, kind, number)
        limit = time.monotonic() + HELD_BACK_S
        while action not in needed and not done.exists():
            assert time.monotonic() < limit, f"{action} does not belong to {target}, which waits"
            time.sleep(0.001)
        result = original[kind](number, *arguments)
        if action == target:
            done.touch()
        return result

    whole = Noise.num_images[Phase.TRAIN] // chunks  # mini-batches with all micro-batches
    steps = chain.from_iterable(islice(training.run(Position()), whole) for _ in count())
    with (
        progress_thread(topology.world),
        patch.object(stage, "forward", partial(run, Kind.FORWARD)),
        patch.object(stage, "backward", partial(run, Kind.BACKWARD)),
    ):
        for (target, _), needed in zip(  # noqa: B007 (`run` uses it)
            work, with_ancestors(work), strict=True
        ):
            done = Path(folder, str(target))
            next(steps)
            assert done.exists()
    del SCHEDULES["two"]


@pytest.mark.parametrize(
    ("schedule", "stages", "chunks"),
    [
        ("gpipe", 2, 4),
        ("gpipe", 4, 3),  # fewer micro-batches than stages
        ("two", 4, 6),
        pytest.param("two", 8, 3, marks=pytest.mark.slow),
    ],
)
def test_work_waits_for_nothing_but_what_it_depends_on(
    on_ranks: OnRanks, tmp_path: Path, schedule: str, stages: int, chunks: int
) -> None:
    """Without other delays, a step thus takes the least time of its schedule."""
    arguments = {"stages": stages, "chunks": chunks, "schedule": schedule}
    on_ranks(stages, hold_back, folder=str(tmp_path), **arguments)


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
