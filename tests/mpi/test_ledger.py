"""A delay of known length must appear in its own column of the ledger."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from tests.conftest import OnRanks
from tests.mpi.small import make_training
from vigmpi.comm.clock import compare_clocks
from vigmpi.comm.reductions import GradientSum
from vigmpi.comm.topology import make_topology
from vigmpi.comm.transport import Receiver
from vigmpi.layout.layout import Layout
from vigmpi.pipeline.adamw import AdamW
from vigmpi.pipeline.stage import Stage
from vigmpi.position import Position
from vigmpi.record.ledger import LEDGER, Ledger, MeanLedger, ledger
from vigmpi.record.timings import TIMINGS
from vigmpi.schedule.program import dependencies

NAMES = [column.name for column in LEDGER]
CHUNKS = 2
DELAY_S = 0.3

# Column: delayed method, rank among 2 stages x 2 replicas, calls per step.
PLANTED: dict[str, tuple[type, str, int, int]] = {
    "forward_s": (Stage, "forward", 1, CHUNKS),
    "network_s": (Receiver, "receive", 1, CHUNKS),
    "gradient_sum_s": (GradientSum, "finish", 2, 1),
    "data_s": (Future, "result", 0, 1),
    "optimizer_s": (AdamW, "step", 3, 1),
}


def delayed(call: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        time.sleep(DELAY_S)
        return call(*args, **kwargs)

    return wrapper


def plant(column: str) -> None:  # on every rank
    world = MPI.COMM_WORLD
    layout = Layout(stages=2, replicas=2, chunks=CHUNKS)
    topology = make_topology(world, layout)
    owner, method, rank, calls = PLANTED[column]
    training = make_training(topology, layout, batch_size=4)

    work = dependencies(training.pipeline.config.programs(CHUNKS))

    def measured() -> Ledger:
        steps = MeanLedger()
        for own in training.run(Position()):
            record = own.gather(topology.world, stop=False, checkpoint=False)
            timings = {name: record.timing(name) for name in TIMINGS}
            if own.step > 0:
                steps.add(ledger(timings, layout.shape, work))
        return steps.mean

    before = measured()
    original = getattr(owner, method)
    if world.rank == rank:
        setattr(owner, method, delayed(original))
    after = measured()
    setattr(owner, method, original)

    increase = dict(zip(NAMES, (after.shares - before.shares)[rank], strict=True))
    planted = calls * DELAY_S
    assert abs(increase[column] - planted) < 0.1 * planted, increase
    rest = {name: value for name, value in increase.items() if name != column}
    assert all(abs(value) < 0.15 * planted for value in rest.values()), increase
    other = after.shares[:, NAMES.index("other_s")]
    assert (other < 0.02 * after.step_s).all(), other / after.step_s


@pytest.mark.parametrize("column", PLANTED)
def test_a_planted_delay_appears_in_its_own_column(on_ranks: OnRanks, column: str) -> None:
    on_ranks(4, plant, column=column)


def compare_shifted_clocks(seconds: float) -> None:  # on every rank
    world = MPI.COMM_WORLD
    clocks = compare_clocks(world, lambda: time.perf_counter() + seconds * world.rank)
    deviation = abs(clocks.offset - seconds * np.arange(world.size))
    assert (deviation <= clocks.error + 1e-6).all(), (clocks, deviation)
    assert (clocks.error < 1e-3).all()


def test_clock_offsets_are_measured_to_within_the_stated_error(on_ranks: OnRanks) -> None:
    on_ranks(3, compare_shifted_clocks, seconds=1.5)
