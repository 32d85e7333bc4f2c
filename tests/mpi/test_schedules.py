"""Pipelines whose layers sleep take the least time of their schedule."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from tests.conftest import OnRanks
from tests.mpi.small import Noise, make_training, on_first_ranks
from tests.sleeping import sleeping_layers
from vigmpi.comm.progress_thread import progress_thread
from vigmpi.layout.layout import Layout
from vigmpi.position import Position
from vigmpi.record.ledger import least_seconds
from vigmpi.schedule import SCHEDULES
from vigmpi.schedule.action import Action, Kind
from vigmpi.schedule.program import dependencies

FORWARD_S, BACKWARD_S = 0.02, 0.03
TOLERANCE = 0.15


def two_in_flight(stage: int, stages: int, chunks: int) -> Iterator[Action]:
    """Yield a forward and a backward in turn, with at most two micro-batches in flight."""
    ahead = min(1 if stage == stages - 1 else 2, chunks)
    for i in range(ahead):
        yield Action(stage, Kind.FORWARD, i)
    for i in range(chunks):
        yield Action(stage, Kind.BACKWARD, i)
        if ahead + i < chunks:
            yield Action(stage, Kind.FORWARD, ahead + i)


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


@pytest.mark.parametrize("schedule", ["gpipe", "two"])
@pytest.mark.parametrize(
    ("stages", "chunks", "uneven"),
    [
        (2, 4, False),
        (4, 6, True),
        (4, 3, False),  # fewer micro-batches than stages
        pytest.param(8, 8, False, marks=pytest.mark.slow),
        pytest.param(8, 5, True, marks=pytest.mark.slow),
    ],
)
def test_a_pipeline_takes_the_least_time_of_its_schedule(
    on_ranks: OnRanks, stages: int, chunks: int, schedule: str, uneven: bool
) -> None:
    arguments = {"stages": stages, "chunks": chunks, "schedule": schedule, "uneven": uneven}
    on_ranks(stages, compare_with_the_least_time, **arguments)
