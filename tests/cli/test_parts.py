"""Runs from the command line whose images are cut into parts."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.cli.test_bad_input import refused
from tests.launching import finish, start, vigmpi
from tests.weights import assert_equal_weights
from vigmpi.checkpoint.search import folder_of

SMALL = ["--dataset", "digits", "--batch-size", "6", "--blocks", "2", "--progress", "off"]
# The learning rate of a single epoch is that of the first of two.
LENGTH = ["--steps", "3", "--test-steps", "2", "--seed", "4", "--lr-schedule", "constant"]


def run(*arguments: str, ranks: int | None = None) -> None:
    done = finish(start(vigmpi(*arguments, ranks=ranks)), timeout=150)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record of a run on whole images."""
    path = tmp_path_factory.mktemp("whole") / "whole.h5"
    run(*SMALL, *LENGTH, "--epochs", "2", "--record", str(path))
    return path


def test_a_run_on_parts_that_is_resumed_on_others_equals_a_run_on_whole_images(
    whole: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.h5", tmp_path / "second.h5"
    layout = ["--stages", "2", "--parts", "2", "--epochs", "1"]
    run(*layout, *SMALL, *LENGTH, "--record", str(first), ranks=4)
    resumed = ["--resume", str(folder_of(first)), "--record", str(second), "--epochs", "2"]
    run(*resumed, "--stages", "1", "--parts", "4", ranks=4)
    [newest], [expected] = (folder_of(path).glob("mini-batch-*") for path in (second, whole))
    assert_equal_weights(newest, expected)

    with h5py.File(first) as file:
        assert file["ranks/stage"][:].tolist() == [0, 0, 1, 1]
        assert file["ranks/part"][:].tolist() == [0, 1, 0, 1]
        assert file["configuration"].attrs["parts"] == 2
        assert (file["timings/parts_s"][:] > 0).all()
        shares = sum(column[:] for column in file["ledger/train"].values())
        steps = file["timings/step_s"][:][file["steps/phase"][:] == 0].max(axis=1)
        np.testing.assert_allclose(shares, steps[1:].mean())
    with h5py.File(whole) as file:
        assert (file["timings/parts_s"][:] == 0).all()


def test_an_evaluation_on_parts_has_the_loss_of_one_on_whole_images(
    whole: Path, tmp_path: Path
) -> None:
    path, checkpoint = tmp_path / "evaluation.h5", ["--checkpoint", str(folder_of(whole))]
    short = ["--batch-size", "6", "--test-steps", "2", "--progress", "off"]
    run("evaluate", *checkpoint, *short, "--parts", "3", "--record", str(path), ranks=3)
    with h5py.File(path) as file, h5py.File(whole) as trained:
        np.testing.assert_array_equal(file["steps/loss"][:], trained["steps/loss"][-2:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "3"], "--stages 1 x --replicas 1 x --parts 3 needs 3 ranks, 2 were started"),
        (["--parts", "2", "--model", "vig_cifar"], "with --model vig_cifar. Use --parts 1, or"),
        (["--recompute", "--model", "vig_cifar"], "with --model vig_cifar. Use --no-recompute"),
        (["--parts", "2", "--backend", "reference"], "--backend reference. Use --parts 1, or"),
        (
            ["--parts", "2", "--dataset", "synthetic", "--image-size", "1x32"],
            "too many parts: --parts 2 for images of 1 rows. Use --parts 1 or fewer.",
        ),
    ],
)
def test_parts_that_cannot_be_made_are_refused(arguments: list[str], message: str) -> None:
    assert message in refused(vigmpi(*arguments, ranks=2))
