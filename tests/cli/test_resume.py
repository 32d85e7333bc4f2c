"""Stopping, resuming and evaluating a run from the command line."""

import os
import re
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.launching import finish, start, steps_done, vigmpi, wait_until
from tests.weights import flip_a_bit
from vigmpi.checkpoint.search import folder_of

SMALL = ["--dataset", "digits", "--batch-size", "6", "--blocks", "2", "--progress", "off"]
LENGTH = ["--epochs", "2", "--steps", "30", "--test-steps", "3"]


def run(*arguments: str, ranks: int | None = None, status: int = 0) -> str:
    done = finish(start(vigmpi(*arguments, ranks=ranks)), timeout=150)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record of a run that was never stopped."""
    path = tmp_path_factory.mktemp("uninterrupted") / "a.h5"
    run(*SMALL, *LENGTH, "--record", str(path))
    return path


def test_a_stopped_and_resumed_run_has_the_record_of_an_uninterrupted_one(
    uninterrupted: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.h5"
    flags = ["--stages", "2", *SMALL, *LENGTH, "--checkpoint-steps", "1", "--record", str(path)]
    process = start(vigmpi(*flags, ranks=2))
    # Checkpoints appear at once, whereas the record may reach the disk only at the end.
    wait_until(lambda: any(folder_of(path).glob("mini-batch-*")))
    second = run(*SMALL, "--record", str(path), "--overwrite", status=2)
    assert re.search(r"error: record in use: \S+a\.h5, by process \d+ on \S+\. Wait", second)
    os.kill(process.pid, signal.SIGUSR1)  # mpiexec forwards it to the ranks
    done = finish(process, timeout=60)
    assert done.returncode == 75, done.stderr
    at = steps_done(path)
    assert 0 < at < 66
    assert f"mini-batch-{at:08} to continue." in done.stderr

    run("--resume", "latest", "--record", str(path), ranks=2)
    with h5py.File(path) as file, h5py.File(uninterrupted) as expected:
        assert file.attrs["resumed_at"].tolist() == [at]
        assert file["mini_batch"][:].tolist() == list(range(66))
        for name in ("epoch", "step", "phase", "num_images", "loss", "accuracy"):
            np.testing.assert_array_equal(file["steps"][name], expected["steps"][name])
        assert file["timings/step_s"].shape == (66, 2)


def test_the_starts_of_a_slurm_job_keep_apart_and_a_restart_resumes_the_newest(
    tmp_path: Path,
) -> None:
    length = ["--epochs", "1", "--steps", "1", "--test-steps", "1"]

    def in_job(*arguments: str, restarts: int = 0) -> str:
        environ = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts)}
        done = finish(start(vigmpi(*arguments), cwd=tmp_path, environ=environ), timeout=100)
        assert done.returncode == 0, done.stderr
        return done.stderr

    in_job(*SMALL, *length, "--lr", "0.5")
    in_job(*SMALL, *length, "--resume", "latest", "--checkpoint-dir", "new", restarts=1)
    in_job("evaluate", "--checkpoint", "latest", "--test-steps", "1")
    records = sorted(path.name for path in tmp_path.glob("*.h5"))
    assert records == ["vigmpi-7-2.h5", "vigmpi-7.h5"]
    in_job(*SMALL, *length)
    out = in_job("--resume", "latest", "--epochs", "2", restarts=1)
    assert re.search(
        r"start: vigmpi-7-3\.h5\.checkpoints/\S+, epoch 2, train step 1 "
        r"\(of run \w{8}, record vigmpi-7-3\.h5, written 0 min ago\)\n",
        out,
    )
    assert steps_done(tmp_path / "vigmpi-7-3.h5") == 4
    for name in ("vigmpi-7.h5", "vigmpi-7-2.h5"):
        assert steps_done(tmp_path / name) == 2


@pytest.mark.slow
def test_resuming_on_another_layout_needs_a_new_record_and_keeps_the_old_one(
    uninterrupted: Path, tmp_path: Path
) -> None:
    flags = ["--resume", str(folder_of(uninterrupted)), "--epochs", "3"]
    error = run(*flags, "--stages", "2", ranks=2, status=2)
    assert f"record has another layout: {os.path.relpath(uninterrupted)}. Use --record" in error
    run(*flags, "--stages", "2", "--record", str(tmp_path / "b.h5"), ranks=2)
    with h5py.File(tmp_path / "b.h5") as file:
        assert file["mini_batch"][:].tolist() == list(range(66, 99))
    assert steps_done(uninterrupted) == 66


def test_evaluation_on_another_layout_reproduces_the_last_test(
    uninterrupted: Path, tmp_path: Path
) -> None:
    checkpoint = str(folder_of(uninterrupted))
    flags = ["--checkpoint", checkpoint, "--record", str(tmp_path / "e.h5"), "--test-steps", "3"]
    out = run("evaluate", *flags, "--stages", "2", ranks=2)
    pattern = r"loss (\S+), accuracy (\S+)% on (\d+) images"
    [[loss, accuracy, num_images]] = re.findall(pattern, out)
    with h5py.File(uninterrupted) as file:
        last = {name: values[-3:] for name, values in file["steps"].items()}
    assert int(num_images) == last["num_images"].sum() == 18
    assert float(loss) == pytest.approx(last["loss"].mean(), rel=1e-5)
    assert float(accuracy) == pytest.approx(100 * last["accuracy"].mean(), abs=0.01)


def test_a_start_that_is_not_possible_is_reported_in_one_line(uninterrupted: Path) -> None:
    checkpoint = str(folder_of(uninterrupted))
    for flags, message in (
        (["--resume", checkpoint], "has completed all 2 epochs. Use --epochs 3 or more."),
        (["--resume", str(uninterrupted)], "cannot read the weights: "),
        (
            ["--resume", checkpoint, "--epochs", "3", "--blocks", "3"],
            "has layer head instead of block 2.",
        ),
        (
            ["evaluate", "--checkpoint", checkpoint, "--readout", "sum"],
            "has readout mean instead of sum.",
        ),
        (["--resume", "nowhere"], "no such checkpoint: nowhere. Use"),
        (
            ["--resume", "latest", "--checkpoint-dir", "nowhere"],
            "no checkpoint found: --resume latest. Use --resume PATH, or omit it to start a new",
        ),
        (
            ["evaluate", "--checkpoint", checkpoint, "--trace"],
            "no record for the trace: --trace without --record. Use --record FILE",
        ),
        (["evaluate"], "Use vigmpi evaluate --checkpoint PATH."),
        (
            [*SMALL, "--record", str(uninterrupted)],
            "folder already holds checkpoints: ",
        ),
    ):
        error = run(*flags, status=2)
        assert message in error
        assert error.endswith(".\n")
        assert "Traceback" not in error
    assert steps_done(uninterrupted) == 66


def test_a_damaged_newest_checkpoint_is_skipped_with_a_warning_but_refused_if_named(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.h5"
    length = ["--steps", "3", "--test-steps", "1", "--epochs", "1", "--checkpoint-steps", "1"]
    run(*SMALL, *length, "--stages", "2", "--keep", "9", "--record", str(path), ranks=2)
    *_, second, newest = sorted(folder_of(path).iterdir())
    flip_a_bit(newest / "1.safetensors")
    damaged = f"damaged checkpoint: {newest / '1.safetensors'} (truncated or modified)."
    train = ["--resume", str(newest), "--epochs", "2", "--stages", "1"]
    for flags in (train, ["evaluate", "--checkpoint", str(newest)]):
        error = run(*flags, status=2)
        assert f"vigmpi: error: {damaged} Use the path of another checkpoint" in error
        assert error.count("\n") == 1
    output = run("--resume", "latest", "--epochs", "2", "--record", str(path), ranks=2)
    assert f"warning: checkpoint skipped: {damaged}\n" in output
    assert f"start: {second}, epoch 1, train step 4 (of run " in output
    with h5py.File(path) as file:
        assert file.attrs["resumed_at"].tolist() == [3]
        assert file["mini_batch"][:].tolist() == list(range(8))


@pytest.mark.parametrize("action", ["stop", pytest.param("ignore", marks=pytest.mark.slow)])
def test_a_loss_that_is_not_finite_is_reported_and_recorded(tmp_path: Path, action: str) -> None:
    path = tmp_path / "a.h5"
    length = ["--epochs", "1", "--steps", "4"]
    flags = [*SMALL, "--lr", "1e30", "--warm-up", "0", *length, "--record", str(path)]
    output = run(*flags, "--on-nonfinite", action, status=1 if action == "stop" else 0)
    assert output.count("loss or gradients are not finite: epoch 1, step 2. ") == 1
    assert "Traceback" not in output
    with h5py.File(path) as file:
        finite = file["steps/finite"][:].tolist()
    assert finite[:2] == [1, 0]
    if action == "stop":
        assert finite == [1, 0]
        [checkpoint] = folder_of(path).iterdir()
        assert checkpoint.name == "mini-batch-00000001"
        assert f"Use --resume {folder_of(path)} with --on-nonfinite skip, or" in output
        output = run(*flags, "--keep", "0", "--overwrite", status=1)
        assert "step 2. Start again with --on-nonfinite skip, or with a lower --lr." in output
    else:
        assert output.count("not finite") == 1
