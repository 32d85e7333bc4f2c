"""Job scripts on a real Slurm cluster."""

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.launching import ROOT, finish, start, steps_done, vigmpi, wait_until
from vigmpi.checkpoint.search import folder_of

SMALL = ["--dataset", "digits", "--batch-size", "10"]
Environment = Mapping[str, str]
pytestmark = pytest.mark.slow


def run(command: list[str], environment: Environment, timeout: float = 200, status: int = 0) -> str:
    """Run a command and return its output."""
    done = finish(start(command, environ=environment), timeout)
    assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def submit(
    slurm: Environment, name: str, results: Path, *options: str, arguments: list[str]
) -> str:
    """Submit a job script that uses this Python's environment and return the job's ID."""
    venv = os.environ.get("VIRTUAL_ENV", str(Path(sys.executable).parents[1]))
    export = f"ALL,RESULTS={results},VIGMPI_VENV={venv},OMP_NUM_THREADS=1"
    command = ["sbatch", "--parsable", "--cpus-per-task=1", f"--export={export}"]
    output = f"--output={results}/%x-%A_%a.log"
    return run([*command, output, *options, f"jobs/{name}", *arguments], slurm).strip()


def state(slurm: Environment, job: str) -> str:
    """Return a job's state as squeue prints it, or an empty string once it has left the queue."""
    return run(["squeue", "-h", "-o", "%T", "-j", job], slurm).strip()


def wait_for_end(slurm: Environment, job: str) -> None:
    # sbatch --wait polls only every ten seconds.
    wait_until(lambda: state(slurm, job) in {"", "COMPLETED", "FAILED"})


def assert_complete(record: Path, steps: int, ranks: int) -> None:
    with h5py.File(record) as file:
        assert file.attrs["steps_done"] == steps
        assert file.attrs["replicas_bit_equal"]
        assert file["timings/step_s"].shape == (steps, ranks)
        assert np.isfinite(file["steps/loss"][:]).all()


def test_srun_starts_one_world_on_two_nodes(slurm: Environment, tmp_path: Path) -> None:
    layout = ["--stages", "2", "--replicas", "2", "--chunks", "5"]
    limits = [*SMALL, "--epochs", "1", "--steps", "2", "--test-steps", "1"]
    command = vigmpi(*layout, *limits, "--record", str(tmp_path / "a.h5"))
    run(["srun", "-N", "2", "-n", "4", *command], slurm)
    assert_complete(tmp_path / "a.h5", steps=3, ranks=4)


def test_a_host_without_the_files_that_flags_name_takes_part(
    slurm: Environment, tmp_path: Path
) -> None:
    limits = "epochs = 1\nsteps = 2\ntest-steps = 1\nbatch-size = 10\n"
    (tmp_path / "run.toml").write_text(f'replicas = 2\ndataset = "digits"\n{limits}')
    record = tmp_path / "a.h5"
    command = shlex.join(vigmpi("--config", "run.toml", "--record", str(record)))
    script = f"cd $([ $SLURM_PROCID = 0 ] && echo {tmp_path} || echo /) && exec {command}"
    run(["srun", "-N", "2", "-n", "2", "sh", "-c", script], slurm)
    assert_complete(record, steps=3, ranks=2)


def test_the_error_for_a_wrong_mpi_type_names_the_right_one(slurm: Environment) -> None:
    command = ["srun", "--mpi=none", "-n", "2", *vigmpi("--stages", "2", *SMALL)]
    done = finish(start(command, environ=slurm), 100)
    assert done.returncode == 2, done.stderr
    assert "srun --mpi=pmi2" in done.stderr
    assert done.stderr.count("vigmpi: error:") == 1


def test_a_shell_that_srun_started_trains_on_one_rank_and_says_how_to_start_more(
    slurm: Environment, tmp_path: Path
) -> None:
    limits = [*SMALL, "--epochs", "1", "--steps", "1", "--test-steps", "1", "--progress", "off"]
    one = vigmpi(*limits, "--record", str(tmp_path / "a.h5"))
    two = vigmpi("--stages", "2", *limits)
    script = tmp_path / "commands.sh"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    checkpoints = str(folder_of(tmp_path / "a.h5"))
    predict = vigmpi("predict", "--checkpoint", checkpoints, str(tmp_path / "a.png"))
    lines = [
        f"{shlex.join(one)} && echo trained",
        f"{shlex.join(two)}; echo status $?",
        f"{shlex.join(predict)} && echo predicted",
    ]
    script.write_text("\n".join(["[ $SLURM_PROCID = 0 ] || exit 0", *lines]))
    # `script` provides the terminal that --pty needs.
    command = shlex.join(["srun", "--pty", "-n", "2", "bash", str(script)])
    output = run(["script", "-qec", command, "/dev/null"], slurm)
    assert "trained" in output
    assert "predicted" in output
    assert "status 2" in output
    assert "needs 2 ranks, 1 was started. Use srun --overlap -n 2 vigmpi --stages 2" in output
    assert_complete(tmp_path / "a.h5", steps=2, ranks=1)


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
    assert_complete(tmp_path / f"{record}.h5", steps=2, ranks=ranks)


def test_a_job_with_one_layout_writes_its_record(slurm: Environment, tmp_path: Path) -> None:
    arguments = ["2", "1", "5", "1", "data", *SMALL, "--record", str(tmp_path / "a.h5")]
    options = ["--ntasks=2", "--job-name=one"]
    wait_for_end(slurm, submit(slurm, "layout.sbatch", tmp_path, *options, arguments=arguments))
    assert_complete(tmp_path / "a.h5", steps=2, ranks=2)


def test_a_job_that_receives_a_stop_signal_is_requeued_and_resumes(
    slurm: Environment, tmp_path: Path
) -> None:
    """Test the checkpoint, status 75 from srun, the requeue, and a record without gaps."""
    record = tmp_path / "a.h5"
    flags = ["--epochs", "2", "--test-steps", "1", "--blocks", "2", "--record", str(record)]
    arguments = ["2", "1", "2", "100", "data", *SMALL, *flags]
    job = submit(slurm, "layout.sbatch", tmp_path, "--ntasks=2", arguments=arguments)
    wait_until(lambda: steps_done(record) > 0)
    run(["scancel", "-s", "USR1", job], slurm)
    wait_until(lambda: state(slurm, job) == "PENDING")
    resumed_at = steps_done(record)
    assert 0 < resumed_at < 202
    wait_until(lambda: steps_done(record) == 202)
    wait_for_end(slurm, job)
    with h5py.File(record) as file:
        assert file.attrs["resumed_at"].tolist() == [resumed_at]
        assert file["mini_batch"][:].tolist() == list(range(202))
        assert file["steps/step"][:].tolist() == 2 * [*range(100), 0]
        assert file.attrs["replicas_bit_equal"]


def test_a_task_of_an_array_is_requeued_alone_and_finished_records_are_kept(
    slurm: Environment, tmp_path: Path
) -> None:
    layouts, environ = tmp_path / "layouts.txt", {"LAYOUTS": str(tmp_path / "layouts.txt")}
    layouts.write_text("short 1 1 1 --steps 2\nlong 1 1 1 --steps 140\n")
    arguments = ["2", "1", "data", *SMALL, "--blocks", "2"]
    options = ["--ntasks=1", "--array=0,1"]

    def submit_study() -> str:
        return submit({**slurm, **environ}, "study.sbatch", tmp_path, *options, arguments=arguments)

    job = submit_study()
    short, long = tmp_path / "short.h5", tmp_path / "long.h5"
    wait_until(lambda: steps_done(short) == 3 and 0 < steps_done(long))
    run(["scancel", "-s", "USR1", f"{job}_1"], slurm)
    wait_until(lambda: state(slurm, f"{job}_1") == "PENDING")
    assert state(slurm, f"{job}_0") in {"", "COMPLETED"}
    wait_until(lambda: steps_done(long) == 141)
    wait_for_end(slurm, f"{job}_1")
    logs = [tmp_path / f"vigmpi-study-{job}_{task}.log" for task in (0, 1)]
    assert [log.read_text().count("data: digits") for log in logs] == [1, 2]
    written = short.read_bytes(), long.read_bytes()
    again = submit_study()
    for task in (0, 1):
        wait_for_end(slurm, f"{again}_{task}")
        log = tmp_path / f"vigmpi-study-{again}_{task}.log"
        assert log.read_text().startswith("finished before: ")
    assert (short.read_bytes(), long.read_bytes()) == written


def test_the_job_array_has_one_task_per_layout() -> None:
    layouts = [s for s in (ROOT / "jobs/layouts.txt").read_text().splitlines() if s[0] != "#"]
    assert f"--array=0-{len(layouts) - 1}\n" in (ROOT / "jobs/study.sbatch").read_text()


def test_the_workstation_script_runs_every_layout(tmp_path: Path) -> None:
    layouts = {"a": "1 1 1", "b": "2 1 5 --blocks 3 --split 2,1"}
    file = tmp_path / "layouts.txt"
    file.write_text("# name ...\n" + "".join(f"{name} {rest}\n" for name, rest in layouts.items()))
    venv = os.environ.get("VIRTUAL_ENV", str(Path(sys.executable).parents[1]))
    activate = tmp_path / "site/bin/activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f': "$A_VARIABLE_OF_THE_SITE"\n. {venv}/bin/activate\n')
    environment = {"RESULTS": str(tmp_path), "VIGMPI_VENV": str(tmp_path / "site")}
    environment["LAYOUTS"] = str(file)
    command = ["jobs/workstation.sh", "1", "1", "data", *SMALL]
    run(command, environment)
    for name, ranks in (("a", 1), ("b", 2)):
        assert_complete(tmp_path / f"{name}.h5", steps=2, ranks=ranks)
    written = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "b.h5").unlink()  # its checkpoints stay
    output = run(command, environment)
    assert output.count("finished before: ") == 1
    assert (tmp_path / "a.h5").read_bytes() == written
    assert_complete(tmp_path / "b.h5", steps=2, ranks=2)
    output = run([*command, "--epochs", "1"], environment, status=2)
    assert "other flags before: " in output
    assert run(command, environment).count("finished before: ") == 2
