import time

import pytest
from mpi4py import MPI

from vigmpi.layout import Layout
from vigmpi.runtime.activity import Activity
from vigmpi.runtime.watchdog import watchdog


def test_an_error_of_mpi_leaves_the_judges_time_to_tell_who_died() -> None:
    activity = Activity(0)
    layout = activity.layout = Layout(stages=1, replicas=1, chunks=1)
    start = time.monotonic()
    with pytest.raises(MPI.Exception), watchdog(MPI.COMM_SELF, layout, activity, 30.0, None):
        raise MPI.Exception(MPI.ERR_OTHER)
    assert time.monotonic() - start > 0.9
