"""A run is stopped, goes on, is evaluated: as a user does it."""

import os
import re
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.launching import finish, start, steps_done, vigmpi, wait_until

SMALL = ["--dataset", "digits", "--batch-size", "6", "--blocks", "2", "--progress", "off"]
LENGTH = ["--epochs", "2", "--steps", "30", "--test-steps", "3"]


def run(*arguments: str, ranks: int | None = None, status: int = 0) -> str:
    done = finish(start(vigmpi(*arguments, ranks=ranks)), timeout=150)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    path = tmp_path_factory.mktemp("whole") / "a.h5"
    run(*SMALL, *LENGTH, "--record", str(path))
    return path


def test_a_run_that_is_told_to_stop_goes_on_as_if_nothing_had_happened(
    whole: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.h5"
    flags = ["--stages", "2", *SMALL, *LENGTH, "--checkpoint-steps", "1", "--record", str(path)]
    process = start(vigmpi(*flags, ranks=2))
    # Seen at once, while the record's steps may be on disk only when all are done.
    wait_until(lambda: any(path.with_suffix(".checkpoints").glob("mini-batch-*")))
    os.kill(process.pid, signal.SIGUSR1)  # mpiexec hands it on to the ranks
    done = finish(process, timeout=60)
    assert done.returncode == 75, done.stderr
    at = steps_done(path)
    assert 0 < at < 66
    assert f"mini-batch-{at:08}, to go on" in done.stderr

    run("--resume", "latest", "--record", str(path), ranks=2)
    with h5py.File(path) as file, h5py.File(whole) as expected:
        assert file.attrs["resumed_at"].tolist() == [at]
        assert file["mini_batch"][:].tolist() == list(range(66))
        for name in ("epoch", "step", "phase", "num_images", "loss", "accuracy"):
            np.testing.assert_array_equal(file["steps"][name], expected["steps"][name])
        assert file["timings/step_s"].shape == (66, 2)


def test_another_layout_needs_a_record_of_its_own_and_keeps_the_old_one(
    whole: Path, tmp_path: Path
) -> None:
    flags = ["--resume", str(whole.with_suffix(".checkpoints")), "--epochs", "3"]
    told = run(*flags, "--stages", "2", ranks=2, status=2)
    assert f"the record {os.path.relpath(whole)} is of another layout; type: --output" in told
    run(*flags, "--stages", "2", "--record", str(tmp_path / "b.h5"), ranks=2)
    with h5py.File(tmp_path / "b.h5") as file:
        assert file["mini_batch"][:].tolist() == list(range(66, 99))
    assert steps_done(whole) == 66


def test_evaluation_on_another_layout_finds_what_the_last_test_found(
    whole: Path, tmp_path: Path
) -> None:
    checkpoint = str(whole.with_suffix(".checkpoints"))
    flags = ["--checkpoint", checkpoint, "--record", str(tmp_path / "e.h5"), "--test-steps", "3"]
    out = run("evaluate", *flags, "--stages", "2", ranks=2)
    [loss, accuracy, images] = re.findall(r"loss (\S+), accuracy (\S+)% of (\d+) images", out)[0]
    with h5py.File(whole) as file:
        last = {name: values[-3:] for name, values in file["steps"].items()}
    assert int(images) == last["num_images"].sum() == 18
    assert float(loss) == pytest.approx(last["loss"].mean(), rel=1e-5)
    assert float(accuracy) == pytest.approx(100 * last["accuracy"].mean(), abs=0.01)


def test_what_cannot_be_gone_on_from_is_told_in_one_line(whole: Path) -> None:
    checkpoint = str(whole.with_suffix(".checkpoints"))
    for flags, message in (
        (["--resume", checkpoint], "has no epoch left: its run is through 2; type: --epochs 3"),
        (["--resume", str(whole)], "can't be read as weights"),
        (["--resume", checkpoint, "--epochs", "3", "--blocks", "3"], "it has no blocks.2."),
        (["--resume", "nowhere"], "there is no checkpoint nowhere"),
        (["evaluate"], "type: evaluate --checkpoint PATH"),
        ([*SMALL, "--record", str(whole)], "exists; type: --overwrite"),
    ):
        told = run(*flags, status=2)
        assert message in told
        assert "Traceback" not in told
    assert steps_done(whole) == 66


@pytest.mark.parametrize("what", ["stop", "ignore"])
def test_a_loss_that_is_not_finite_is_told_and_recorded(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.h5"
    flags = [*SMALL, "--lr", "1e30", "--epochs", "1", "--steps", "4", "--record", str(path)]
    told = run(*flags, "--on-nonfinite", what, ranks=None, status=1 if what == "stop" else 0)
    assert told.count("loss or gradients are not finite: epoch 1, step 2") == 1
    assert "Traceback" not in told
    with h5py.File(path) as file:
        finite = file["steps/finite"][:].tolist()
    assert finite[:2] == [1, 0]
    if what == "stop":
        assert finite == [1, 0]
        [kept] = path.with_suffix(".checkpoints").iterdir()
        assert kept.name == "mini-batch-00000001"
    else:
        assert told.count("not finite") == 1
