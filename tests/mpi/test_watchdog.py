import time

import pytest
from mpi4py import MPI

from tests.conftest import OnRanks
from vigmpi.layout.layout import Layout
from vigmpi.monitor.activity import Activity
from vigmpi.monitor.watchdog import watchdog


def raise_mpi_exception() -> None:
    world = MPI.COMM_WORLD
    activity = Activity(world.rank)
    activity.layout = Layout(stages=world.size, replicas=1, chunks=1)
    start = time.monotonic()
    with pytest.raises(MPI.Exception), watchdog(world, activity.layout, activity, 30.0, None):
        raise MPI.Exception(MPI.ERR_OTHER)
    assert time.monotonic() - start > 0.9


def test_an_mpi_error_leaves_the_monitors_time_to_report_a_dead_rank(on_ranks: OnRanks) -> None:
    on_ranks(2, raise_mpi_exception)
