"""Fault drills on ranks that srun starts on two nodes."""

import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.faults.drill import drill, run
from tests.faults.test_drills import assert_ended

SRUN = ["srun", "--overcommit", "-N", "2", "-n", "4"]
pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("fault", "rank", "phase"),
    [
        ("kill", 0, "timings"),
        ("stop", 3, "gradient sum"),
        ("raise", 1, "checkpoint"),
    ],
)
def test_a_fault_on_one_rank_ends_the_job_step(
    slurm: Mapping[str, str], tmp_path: Path, fault: str, rank: int, phase: str
) -> None:
    planned = drill("srun", fault, rank, phase, random.Random(rank))
    assert_ended(planned, run(planned, tmp_path / "run", SRUN, slurm))
