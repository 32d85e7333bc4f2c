"""Options of the training itself, from the command line, in two layouts and on resuming."""

import os
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.launching import finish, start, vigmpi
from tests.weights import assert_equal_weights, weights
from vigmpi.checkpoint.search import find, folder_of

SMALL = ("--dataset", "digits", "--model", "vig_cifar", "--batch-size", "12", "--chunks", "3")
LENGTH = ("--epochs", "3", "--steps", "4", "--test-steps", "2", "--threads", "1")
OPTIONS = (
    *("--lr", "3e-3", "--lr-schedule", "one-cycle", "--warm-up", "0.3", "--weight-decay", "0.1"),
    *("--clip-norm", "0.5", "--label-smoothing", "0.1", "--mixup", "0.3", "--ema", "0.8"),
    *("--drop-path", "0.1", "--random-crop", "2", "--flip", "--holdout", "50"),
)


def run(*arguments: str, ranks: int | None = None, status: int = 0) -> str:
    done = finish(start(vigmpi(*arguments, "--progress", "off", ranks=ranks)), timeout=150)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record of a run on one rank that kept all of its checkpoints."""
    path = tmp_path_factory.mktemp("options") / "one.h5"
    kept = ("--checkpoint-steps", "1", "--keep", "99", "--record", str(path))
    out = run(*SMALL, *LENGTH, *OPTIONS, *kept)
    assert "held-out images)" in out
    return path


def last(record: Path) -> Path:
    found = find(str(folder_of(record)))
    assert found
    return found.path


@pytest.mark.parametrize("mini_batches", [3, 10])  # after training steps of both epochs
def test_a_run_resumed_on_another_split_ends_bitwise_equal(
    one_rank: Path, tmp_path: Path, mini_batches: int
) -> None:
    checkpoint = folder_of(one_rank) / f"mini-batch-{mini_batches:08}"
    record = tmp_path / "two.h5"
    run("--resume", str(checkpoint), "--stages", "2", "--record", str(record), ranks=2)
    assert_equal_weights(last(record), last(one_rank))
    names = weights(last(one_rank)).keys()
    assert {name.partition(".")[0] for name in names} >= {"ema", "optimizer"}
    with h5py.File(record) as file, h5py.File(one_rank) as expected:
        for name in ("loss", "accuracy", "raw_loss", "raw_accuracy"):
            rows = expected["steps"][name][mini_batches:]
            np.testing.assert_array_equal(file["steps"][name], rows)
            in_test = expected["steps/phase"][mini_batches:] == 1
            assert np.array_equal(np.isfinite(rows), in_test | (not name.startswith("raw")))
        assert (expected["steps/loss"][:] != expected["steps/raw_loss"][:]).all()


def test_the_checkpoint_with_the_best_accuracy_on_held_out_images_is_kept(one_rank: Path) -> None:
    with h5py.File(one_rank) as file:
        rows = {name: file["steps"][name][:] for name in ("phase", "epoch", "accuracy")}
    by_epoch = [
        rows["accuracy"][(rows["phase"] == 1) & (rows["epoch"] == epoch)].mean()
        for epoch in range(3)
    ]
    best = find(str(folder_of(one_rank) / "best"))
    assert best
    assert best.manifest
    assert best.manifest.position.epoch == 1 + int(np.argmax(by_epoch))
    assert best.manifest.settings["held_out_accuracy"] == pytest.approx(max(by_epoch))


def loss_of(out: str) -> tuple[float, int]:
    [(loss, num_images)] = re.findall(r"loss (\S+), accuracy \S+% on (\d+) images", out)
    return float(loss), int(num_images)


def test_evaluate_and_predict_use_the_averages_unless_told_otherwise(
    one_rank: Path, tmp_path: Path
) -> None:
    image = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(255, size=(32, 32, 3), dtype="u1")).save(
        image
    )
    checkpoint = ("--checkpoint", str(folder_of(one_rank)))
    found = {}
    for flags in ((), ("--no-ema",)):
        record = tmp_path / f"evaluation{len(flags)}.h5"
        out = run("evaluate", *checkpoint, *flags, "--record", str(record), "--threads", "1")
        assert ("moving averages" in out) == (not flags)
        loss, num_images = loss_of(out)
        assert num_images == 297  # the test set
        command = vigmpi("predict", *checkpoint, *flags, "--format", "json", str(image))
        predicted = finish(start(command), timeout=100)
        assert "classes" in predicted.stdout, predicted.stderr
        found[flags] = loss, predicted.stdout
    assert found[()][0] != found["--no-ema",][0]
    assert found[()][1] != found["--no-ema",][1]


def test_other_held_out_images_are_refused_when_a_run_is_resumed(one_rank: Path) -> None:
    resume = ("--resume", str(folder_of(one_rank)), "--epochs", "4")
    for change in (("--seed", "1"), ("--holdout", "49"), ("--holdout", "0")):
        error = run(*resume, *change, status=2)
        assert "error: other held-out images than before: " in error
        assert "Use --holdout 50 --seed 0." in error


def test_the_best_checkpoint_is_resumed_if_no_other_is_left_and_continues_the_record(
    one_rank: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "one.h5"
    shutil.copy(one_rank, copy)
    best = folder_of(one_rank) / "best"
    shutil.copytree(best, folder_of(copy) / "best")
    found = find(str(folder_of(copy)))
    assert found
    assert found.manifest
    assert found.record == Path(os.path.relpath(copy))
    run("--resume", "latest", "--record", str(copy), "--epochs", "4")
    with h5py.File(copy) as file:
        at = found.manifest.position.mini_batches
        assert file.attrs["resumed_at"].tolist() == [at]
        assert file["mini_batch"][:].tolist() == list(range(24))


@pytest.mark.slow
def test_120_steps_of_the_shipped_training_are_bitwise_equal_on_one_and_two_stages(
    tmp_path: Path,
) -> None:
    """With the settings of jobs/cifar10.toml, in bfloat16, on digits and small mini-batches."""
    settings = ("--config", "jobs/cifar10.toml", "--dataset", "digits", "--holdout", "60")
    layout = ("--replicas", "1", "--batch-size", "12", "--chunks", "2", "--threads", "1")
    length = ("--epochs", "3", "--steps", "40", "--test-steps", "2")
    records = [tmp_path / f"{stages}.h5" for stages in (1, 2)]
    for stages, record in enumerate(records, 1):
        cut = ("--stages", str(stages), "--record", str(record))
        run(*settings, *layout, *length, *cut, ranks=stages)
    assert_equal_weights(last(records[1]), last(records[0]))
    with h5py.File(records[0]) as one, h5py.File(records[1]) as two:
        assert (one["steps/phase"][:] == 0).sum() == 120
        np.testing.assert_array_equal(two["steps/loss"], one["steps/loss"])
