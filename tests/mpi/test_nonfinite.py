from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from tests.conftest import OnRanks
from tests.mpi.small import Noise, make_training
from vigmpi.comm.topology import make_topology
from vigmpi.datasets.dataset import Images, Indices
from vigmpi.layout.layout import Layout
from vigmpi.phase import Phase
from vigmpi.pipeline.trainer import TrainerConfig
from vigmpi.position import Position


class NotANumber(Noise):
    """Images of which one, in one micro-batch of one replica, is not a number."""

    def images(self, phase: Phase, samples: Indices) -> Images:
        images = super().images(phase, samples)
        images[samples == 5] = np.nan
        return images


def train_with_one_bad_image(on_nonfinite: str) -> None:
    layout = Layout(stages=2, replicas=2, chunks=2)
    topology = make_topology(MPI.COMM_WORLD, layout)
    training = make_training(
        topology,
        layout,
        4,
        trainer=TrainerConfig(lr=1e-3, on_nonfinite=on_nonfinite),
        dataset=NotANumber(Path(), 0),
    )
    trainer = training.trainer
    finite = []
    before = {name: values.copy() for name, values in trainer.stage_state().items()}
    for record in training.run(Position()):
        after = {name: values.copy() for name, values in trainer.stage_state().items()}
        same = all(np.array_equal(after[name], values) for name, values in before.items())
        finite.append(record.finite)
        assert same == (not record.finite and on_nonfinite != "ignore")
        before = after
    if on_nonfinite == "ignore":
        first = finite.index(False)
        assert not any(finite[first:])
    else:
        assert finite.count(False) == 1
        assert all(np.isfinite(values).all() for values in before.values())


@pytest.mark.parametrize("on_nonfinite", ["stop", "skip", "ignore"])
def test_a_step_that_is_not_finite_on_one_rank_changes_no_weights(
    on_ranks: OnRanks, on_nonfinite: str
) -> None:
    """With "ignore", the step is taken, and no later step is finite."""
    on_ranks(4, train_with_one_bad_image, on_nonfinite=on_nonfinite)
