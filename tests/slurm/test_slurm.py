"""The commands and jobs of the README on a real Slurm."""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.launching import ROOT, finish, start, steps_done, vigmpi, wait_until

SMALL = ["--dataset", "digits", "--batch-size", "10"]
Environment = Mapping[str, str]


def run(command: list[str], environment: Environment, timeout: float = 200) -> str:
    done = finish(start(command, environ=environment), timeout)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def job(name: str, results: Path, *options: str) -> list[str]:
    """An sbatch of a job script, which waits for its end, in this Python's environment."""
    venv = os.environ.get("VIRTUAL_ENV", str(Path(sys.executable).parents[1]))
    export = f"ALL,RESULTS={results},VIGMPI_VENV={venv},OMP_NUM_THREADS=1"
    return [
        *("sbatch", "--wait", "--cpus-per-task=1", f"--export={export}"),
        *(f"--output={results}/%x-%A_%a.log", *options, f"jobs/{name}"),
    ]


def assert_whole(record: Path, steps: int, ranks: int) -> None:
    with h5py.File(record) as file:
        assert file.attrs["steps_done"] == steps
        assert file.attrs["replicas_bit_equal"]
        assert file["timings/step_s"].shape == (steps, ranks)
        assert np.isfinite(file["steps/loss"][:]).all()


def test_srun_makes_one_world_over_two_nodes(slurm: Environment, tmp_path: Path) -> None:
    layout = ["--stages", "2", "--replicas", "2", "--chunks", "5"]
    short = [*SMALL, "--epochs", "1", "--steps", "2", "--test-steps", "1"]
    command = vigmpi(*layout, *short, "--output", str(tmp_path / "a.h5"))
    run(["srun", "-N", "2", "-n", "4", *command], slurm)
    assert_whole(tmp_path / "a.h5", steps=3, ranks=4)


def test_a_wrong_mpi_type_is_told_with_the_right_one(slurm: Environment) -> None:
    command = ["srun", "--mpi=none", "-n", "2", *vigmpi("--stages", "2", *SMALL)]
    done = finish(start(command, environ=slurm), 100)
    assert done.returncode == 2, done.stderr
    assert "srun --mpi=pmi2" in done.stderr
    assert done.stderr.count("vigmpi: error:") == 1


@pytest.mark.parametrize(
    ("script", "task", "arguments", "record", "ranks"),
    [
        ("study.sbatch", 8, ["1", "1"], "stages4-chunks5-split6222", 4),
        ("scaling.sbatch", 5, ["1", "1"], "stages2-replicas2-chunks5", 4),
    ],
)
def test_a_task_of_a_job_array_writes_its_record(
    slurm: Environment,
    tmp_path: Path,
    script: str,
    task: int,
    arguments: list[str],
    record: str,
    ranks: int,
) -> None:
    command = job(script, tmp_path, "--ntasks=4", f"--array={task}")
    run([*command, *arguments, "data", *SMALL], slurm)
    assert_whole(tmp_path / f"{record}.h5", steps=2, ranks=ranks)


def test_a_job_of_one_layout(slurm: Environment, tmp_path: Path) -> None:
    command = job("layout.sbatch", tmp_path, "--ntasks=2", "--job-name=one")
    output = ["--output", str(tmp_path / "a.h5")]
    run([*command, "2", "1", "5", "1", "data", *SMALL, *output], slurm)
    assert_whole(tmp_path / "a.h5", steps=2, ranks=2)


def test_a_job_that_is_told_to_stop_is_put_back_and_goes_on(
    slurm: Environment, tmp_path: Path
) -> None:
    """Checkpoint, status 75 through srun, requeue, and the same record without a gap."""
    output = tmp_path / "a.h5"
    _, _, *command = job("layout.sbatch", tmp_path, "--ntasks=2")
    long = ["--epochs", "3", "--test-steps", "1", "--blocks", "2"]
    arguments = ["2", "1", "2", "100", "data", *SMALL, *long, "--output", str(output)]
    number = re.findall(r"\d+", run(["sbatch", "--parsable", *command, *arguments], slurm))[0]

    def state() -> str:
        return run(["squeue", "-h", "-o", "%T %r", "-j", number], slurm).strip()

    wait_until(lambda: steps_done(output) > 0)
    run(["scancel", "-s", "USR1", number], slurm)
    wait_until(lambda: state().startswith("PENDING"))
    at = steps_done(output)
    assert 0 < at < 303
    wait_until(lambda: steps_done(output) == 303)
    wait_until(lambda: not state().startswith(("RUNNING", "COMPLETING")))
    with h5py.File(output) as file:
        assert file.attrs["resumed_at"].tolist() == [at]
        assert file["mini_batch"][:].tolist() == list(range(303))
        assert file["steps/step"][:].tolist() == 3 * [*range(100), 0]
        assert file.attrs["replicas_bit_equal"]


def test_the_array_has_a_task_for_every_layout() -> None:
    layouts = [s for s in (ROOT / "jobs/layouts.txt").read_text().splitlines() if s[0] != "#"]
    assert f"--array=0-{len(layouts) - 1}\n" in (ROOT / "jobs/study.sbatch").read_text()


def test_the_workstation_script_runs_each_layout(tmp_path: Path) -> None:
    layouts = {"a": "1 1 1", "b": "2 1 5 --blocks 3 --split 2,1"}
    file = tmp_path / "layouts.txt"
    file.write_text("# name ...\n" + "".join(f"{name} {rest}\n" for name, rest in layouts.items()))
    venv = os.environ.get("VIRTUAL_ENV", str(Path(sys.executable).parents[1]))
    environment = {"RESULTS": str(tmp_path), "VIGMPI_VENV": venv, "LAYOUTS": str(file)}
    run(["jobs/workstation.sh", "1", "1", "data", *SMALL], environment)
    for name, ranks in (("a", 1), ("b", 2)):
        assert_whole(tmp_path / f"{name}.h5", steps=2, ranks=ranks)
