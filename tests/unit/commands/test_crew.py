import numpy as np
from mpi4py import MPI

from vigmpi.commands.crew import Crew, Loss
from vigmpi.config import RunConfig


def test_numbers_of_those_that_are_left_stand_where_they_stood_at_first() -> None:
    config = RunConfig(stages=2, replicas=1)
    crew = Crew(MPI.COMM_SELF, config, [2, 3], 6, losses=[Loss(4, [0, 1, 4, 5])])
    spread = crew.spread(np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert spread[2:4].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert np.isnan(spread[[0, 1, 4, 5]]).all()
    assert crew.first_config.replicas == 3
