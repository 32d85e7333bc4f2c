import numpy as np
import pytest
from mpi4py import MPI

from vigmpi.cli.config import RunConfig
from vigmpi.commands.crew import Crew, RankLoss
from vigmpi.errors import RunError
from vigmpi.monitor.activity import Activity


def test_numbers_of_those_that_are_left_stand_where_they_stood_at_first() -> None:
    config = RunConfig(stages=2, replicas=1)
    crew = Crew(MPI.COMM_SELF, config, [2, 3], 6, losses=[RankLoss(4, [0, 1, 4, 5])])
    spread = crew.expand_to_initial_ranks(np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert spread[2:4].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert np.isnan(spread[[0, 1, 4, 5]]).all()
    assert crew.first_config.replicas == 3


def test_where_mpi_fails_twice_in_a_mini_batch_and_nobody_is_lost_the_run_ends() -> None:
    crew = Crew.of_all(MPI.COMM_SELF, RunConfig(stages=1, replicas=1))
    again = crew.survivors(Activity(0), "a reason")
    assert again
    assert again.losses == [RankLoss(0, [])]
    assert again.config == crew.config
    with pytest.raises(RunError, match=r"failed twice \(a reason\)"):
        again.survivors(Activity(0), "a reason")
