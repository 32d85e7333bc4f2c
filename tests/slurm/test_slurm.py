"""The commands and jobs of the README on a real Slurm."""

import os
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


def submit(
    slurm: Environment, name: str, results: Path, *options: str, arguments: list[str]
) -> str:
    """Submit a job script in this Python's environment; the job's number."""
    venv = os.environ.get("VIRTUAL_ENV", str(Path(sys.executable).parents[1]))
    export = f"ALL,RESULTS={results},VIGMPI_VENV={venv},OMP_NUM_THREADS=1"
    command = ["sbatch", "--parsable", "--cpus-per-task=1", f"--export={export}"]
    output = f"--output={results}/%x-%A_%a.log"
    return run([*command, output, *options, f"jobs/{name}", *arguments], slurm).strip()


def state(slurm: Environment, job: str) -> str:
    """Of a job, in Slurm's words; empty once it is over."""
    return run(["squeue", "-h", "-o", "%T", "-j", job], slurm).strip()


def wait_for_end(slurm: Environment, job: str) -> None:
    # sbatch --wait would look again in ten seconds only.
    wait_until(lambda: state(slurm, job) in {"", "COMPLETED", "FAILED"})


def assert_whole(record: Path, steps: int, ranks: int) -> None:
    with h5py.File(record) as file:
        assert file.attrs["steps_done"] == steps
        assert file.attrs["replicas_bit_equal"]
        assert file["timings/step_s"].shape == (steps, ranks)
        assert np.isfinite(file["steps/loss"][:]).all()


def test_srun_makes_one_world_over_two_nodes(slurm: Environment, tmp_path: Path) -> None:
    layout = ["--stages", "2", "--replicas", "2", "--chunks", "5"]
    short = [*SMALL, "--epochs", "1", "--steps", "2", "--test-steps", "1"]
    command = vigmpi(*layout, *short, "--record", str(tmp_path / "a.h5"))
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
    options = ["--ntasks=4", f"--array={task}"]
    arguments = [*arguments, "data", *SMALL]
    wait_for_end(slurm, submit(slurm, script, tmp_path, *options, arguments=arguments))
    assert_whole(tmp_path / f"{record}.h5", steps=2, ranks=ranks)


def test_a_job_of_one_layout(slurm: Environment, tmp_path: Path) -> None:
    arguments = ["2", "1", "5", "1", "data", *SMALL, "--record", str(tmp_path / "a.h5")]
    options = ["--ntasks=2", "--job-name=one"]
    wait_for_end(slurm, submit(slurm, "layout.sbatch", tmp_path, *options, arguments=arguments))
    assert_whole(tmp_path / "a.h5", steps=2, ranks=2)


def test_a_job_that_is_told_to_stop_is_put_back_and_goes_on(
    slurm: Environment, tmp_path: Path
) -> None:
    """Checkpoint, status 75 through srun, requeue, and the same record without a gap."""
    output = tmp_path / "a.h5"
    long = ["--epochs", "2", "--test-steps", "1", "--blocks", "2", "--record", str(output)]
    arguments = ["2", "1", "2", "100", "data", *SMALL, *long]
    job = submit(slurm, "layout.sbatch", tmp_path, "--ntasks=2", arguments=arguments)
    wait_until(lambda: steps_done(output) > 0)
    run(["scancel", "-s", "USR1", job], slurm)
    wait_until(lambda: state(slurm, job) == "PENDING")
    at = steps_done(output)
    assert 0 < at < 202
    wait_until(lambda: steps_done(output) == 202)
    wait_for_end(slurm, job)
    with h5py.File(output) as file:
        assert file.attrs["resumed_at"].tolist() == [at]
        assert file["mini_batch"][:].tolist() == list(range(202))
        assert file["steps/step"][:].tolist() == 2 * [*range(100), 0]
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
