"""Invalid input ends a run with status 2 and one line from one rank."""

from pathlib import Path

import h5py
import pytest
from PIL import Image

from tests.images import random_images, write_image_files, write_prepared
from tests.launching import finish, start, vigmpi


def refused(command: list[str], environ: dict[str, str] | None = None) -> str:
    """Run a command that must fail, and return its error message."""
    done = finish(start(command, environ=environ), timeout=150)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if "vigmpi" in line]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert lines[0].startswith("vigmpi: error: ")
    message = lines[0].removeprefix("vigmpi: error: ")
    assert ": " in message
    assert message.endswith(".")
    return message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stages", "2", "--replicas", "2"], "needs 4 ranks, 2 were started"),
        (["--stages", "9"], "--stages 9 for 8 blocks. Use --stages 8 or fewer"),
        (["--stages", "2", "--split", "4,3"], "sum to 8 blocks"),
        (["--chunks", "300"], "--chunks 300 for --batch-size 50. Use"),
        (["--stagse", "2"], "unknown option: --stagse. Use --stages"),
        (["trian"], "unknown command: trian. Use train"),
    ],
)
def test_invalid_options(arguments: list[str], message: str) -> None:
    assert message in refused(vigmpi(*arguments, ranks=2))


def test_a_launch_that_made_separate_worlds() -> None:
    """The environment is that of one of two tasks, started by srun without an MPI type."""
    environ = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}
    assert "srun --mpi=" in refused(vigmpi("--stages", "2"), environ)


def test_missing_data(tmp_path: Path) -> None:
    flags = ["--dataset", "cifar10", "--data-dir", str(tmp_path)]
    assert "CIFAR-10 not found: no cifar10.h5" in refused(vigmpi("--stages", "2", *flags, ranks=2))


def test_problems_of_class_folders(tmp_path: Path) -> None:
    write_image_files(tmp_path, ["a", "b"], (6, 5))
    flags = ["--stages", "2", "--dataset", "folder", "--data-dir", str(tmp_path)]
    share = refused(vigmpi(*flags, "--test-share", "0.5", ranks=2))
    assert f"test images exist: --test-share 0.5 for {tmp_path} with test/. Omit" in share
    for name in ("train/a/1.png", "test/b/0.png"):
        (tmp_path / name).write_bytes(b"")
    unreadable = refused(vigmpi(*flags, ranks=2))
    assert "cannot read 2 of 16 images: train/a/1.png (" in unreadable
    assert "), test/b/0.png (" in unreadable


def test_photographs_at_their_full_size(tmp_path: Path) -> None:
    """They are refused by a forecast that needs far less memory than they do."""
    for name in ("train/a/1", "train/a/2", "test/a/1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("1", (6016, 6016)).save(tmp_path / f"{name}.png")
    flags = ["--dataset", "folder", "--data-dir", str(tmp_path)]
    for model, batch_size in (("study", "50"), ("vig_cifar", "2"), ("pvig_ti", "2")):
        limited = ["sh", "-c", 'ulimit -v 6000000 && exec "$@"', "sh"]
        command = vigmpi(*flags, "--model", model, "--batch-size", batch_size)
        message = refused([*limited, *command])
        assert message.startswith("not enough memory for --")
        assert "smaller images" in message


def test_a_test_share_of_other_data(tmp_path: Path) -> None:
    write_prepared(tmp_path / "a.h5", random_images((6, 5), 3), 3)
    for data in (["digits"], ["folder", "--data-dir", str(tmp_path / "a.h5")]):
        message = refused(vigmpi("--test-share", "0.1", "--dataset", *data))
        assert f"test images exist: --test-share 0.1 for --dataset {data[0]}. Omit" in message


def test_a_prepared_file_with_a_link_to_another_file(tmp_path: Path) -> None:
    def add_link(file: h5py.File) -> None:
        del file["test"]
        file["test"] = h5py.ExternalLink("other.h5", "/test")

    write_prepared(tmp_path / "cifar10.h5", random_images((6, 5), 3), 3, add_link)
    message = refused(vigmpi("--stages", "2", "--data-dir", str(tmp_path), ranks=2))
    assert f"cannot read prepared file: {tmp_path / 'cifar10.h5'} (" in message


@pytest.mark.slow
def test_a_crop_larger_than_the_image_and_a_missing_mean(tmp_path: Path) -> None:
    folder = ["--dataset", "folder", "--data-dir", str(tmp_path)]
    write_image_files(tmp_path, ["a", "b"], (6, 5))
    assert "out of the frame" in refused(
        vigmpi("--stages", "2", *folder, "--random-crop", "5", ranks=2)
    )
    assert "--no-normalize" in refused(vigmpi("--stages", "2", *folder, "--normalize", ranks=2))


@pytest.mark.slow
def test_a_record_that_cannot_be_written(tmp_path: Path) -> None:
    path = str(tmp_path / "nowhere" / "run.h5")
    message = refused(vigmpi("--stages", "2", "--record", path, ranks=2))
    assert f"cannot write the record: {path} (" in message


@pytest.mark.slow
def test_a_record_that_exists(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    path.write_text("precious")
    assert "--overwrite" in refused(vigmpi("--replicas", "2", "--record", str(path), ranks=2))
    assert path.read_text() == "precious"


def test_a_batch_size_that_exceeds_the_memory() -> None:
    message = refused(vigmpi("--replicas", "2", "--batch-size", "1000000", ranks=2))
    assert "images fit. Use --batch-size " in message
    fitting = int(message.split()[-1].removesuffix("."))
    assert 100 <= fitting < 1_000_000
    measured = ["--split", "measured", "--batch-size", "1000000000"]
    message = refused(vigmpi("--stages", "2", *measured, ranks=2))
    assert message.startswith("not enough memory for --split measured and micro-batches of ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--checkpoint", "x" * 300], "x (File name too long). Use"),
        (["prepare", "photos", "--output", "."], "not '.'. See vigmpi prepare --help."),
        (["models", "study", "--image-size", "1000000"], "Use a smaller --image-size."),
    ],
)
def test_names_and_sizes_that_cannot_be(arguments: list[str], message: str) -> None:
    assert message in refused(vigmpi(*arguments))


@pytest.mark.slow
def test_micro_batches_of_single_images_cause_one_warning(tmp_path: Path) -> None:
    layout = ["--batch-size", "2", "--chunks", "2", "--blocks", "1"]
    length = ["--steps", "1", "--test-steps", "1", "--epochs", "1"]
    command = vigmpi(*layout, *length, "--record", str(tmp_path / "run.h5"))
    done = finish(start(command), timeout=150)
    assert done.returncode == 0
    assert done.stderr.count("hold a single image: --batch-size 2, --chunks 2. Use fewer") == 1
    checkpoint = f"{tmp_path / 'run.h5'}.checkpoints"
    command = vigmpi("evaluate", "--checkpoint", checkpoint, "--batch-size", "1")
    done = finish(start([*command, "--test-steps", "1"]), timeout=150)
    assert done.returncode == 0
    assert "single image" not in done.stderr
