"""Training on a user's own images, prepared and directly from class folders."""

import csv
import json
import os
import shlex
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.images import write_image_files
from tests.launching import ROOT, finish, start, vigmpi
from vigmpi.checkpoint.search import folder_of
from vigmpi.datasets.prepared import PreparedFile
from vigmpi.phase import Phase

CLASSES, SIDE = ["ant", "cat", "owl"], 9


def stderr_of(command: list[str]) -> str:
    done = finish(start(command, cwd=ROOT), timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stderr


def run(data: Path, record: Path, *flags: str, ranks: int | None = None) -> tuple[str, np.ndarray]:
    """Train one epoch and return the line that describes the data, and the losses."""
    length = ["--batch-size", "4", "--chunks", "2", "--epochs", "1", "--blocks", "2"]
    source = ["--dataset", "folder", "--data-dir", str(data)]
    err = stderr_of(vigmpi(*length, *source, *flags, "--record", str(record), ranks=ranks))
    with h5py.File(record) as file:
        assert err.startswith(f"data: {file.attrs['dataset']}")
        assert np.isfinite(file["steps/loss"][:]).all()
        settings = dict(file["configuration"].attrs)
        assert settings["flip"] == ("--flip" in flags)
        assert settings["random_crop"] == (2 if "--random-crop" in flags else 0)
        losses: np.ndarray = file["steps/loss"][:]
    return err.splitlines()[0], losses


@pytest.mark.slow
def test_losses_from_a_prepared_file_equal_those_from_its_folders(tmp_path: Path) -> None:
    folder, file = tmp_path / "photos", tmp_path / "photos.h5"
    write_image_files(folder, CLASSES, (SIDE, SIDE))
    flags = ["--image-size", str(SIDE), "--output", str(file)]
    assert "error" not in stderr_of(vigmpi("prepare", str(folder), *flags))
    from_file = run(file, tmp_path / "a.h5", "--stages", "2", ranks=2)
    from_folders = run(folder, tmp_path / "b.h5")
    assert from_file[0] == (
        f"data: folder ({file}, prepared from photos: 3 classes, 9x9 pixels; 12 training and "
        "12 test images)"
    )
    assert f"({folder}/: 3 classes, 9x9 pixels" in from_folders[0]
    np.testing.assert_array_equal(from_file[1], from_folders[1])
    augmented = run(file, tmp_path / "c.h5", "--normalize", "--flip", "--random-crop", "2")
    assert (augmented[1] != from_file[1]).all()


@pytest.mark.slow
def test_from_photographs_to_predictions_as_the_output_says(tmp_path: Path) -> None:
    """Prepare class folders without test images, type the command that is printed, and predict."""
    folder = tmp_path / "my photos"
    write_image_files(folder, ["cat", "owl"], (20, 30), each=6, suffix=".jpg")
    shutil.rmtree(folder / "test")

    def succeed(command: list[str]) -> str:
        done = finish(start(command, cwd=tmp_path), timeout=200)
        assert done.returncode == 0, done.stderr
        return done.stdout

    out = succeed(vigmpi("prepare", str(folder), "--test-share", "0.25"))
    [line] = [line for line in out.splitlines() if line.startswith("train with: ")]
    launcher, _, count, program, *options = shlex.split(line.removeprefix("train with: "))
    assert (launcher, program) == ("mpirun", "vigmpi")
    short = ["--epochs", "1", "--batch-size", "4", "--record", "run.h5"]
    succeed(vigmpi(*options, *short, ranks=int(count)))
    predict = ["predict", "--checkpoint", "run.h5.checkpoints", "my photos", "--format", "csv"]
    rows = list(csv.DictReader(succeed(vigmpi(*predict)).splitlines()))
    assert len(rows) == 12
    assert {row["class"] for row in rows} <= {"cat", "owl"}


@pytest.mark.slow
def test_a_run_on_class_folders_keeps_its_share_of_test_images(tmp_path: Path) -> None:
    folder, file, record = tmp_path / "photos", tmp_path / "photos.h5", tmp_path / "a.h5"
    write_image_files(folder, CLASSES, (SIDE, SIDE), each=8)
    shutil.rmtree(folder / "test")
    share = ["--test-share", "0.25"]
    stderr_of(vigmpi("prepare", str(folder), *share, "--image-size", "9", "--output", str(file)))
    data, losses = run(folder, record, *share, "--stages", "2", ranks=2)
    assert "9x9 pixels; 6 images, 0.25 of each class by a hash of their names, are" in data
    assert "18 training and 6 test images" in data
    np.testing.assert_array_equal(losses, run(file, tmp_path / "b.h5")[1])
    checkpoints = str(folder_of(record))
    evaluate = vigmpi("evaluate", "--checkpoint", checkpoints)
    for command in (evaluate, [*evaluate, "--data-dir", str(file)]):
        assert "6 test images)" in stderr_of(command)
    stderr_of(vigmpi("--resume", checkpoints, "--epochs", "2", ranks=2))
    with h5py.File(record) as content:
        assert content["configuration"].attrs["test_share"] == 0.25
        assert set(content["steps/epoch"][:]) == {0, 1}


@pytest.mark.slow
def test_names_that_are_not_utf_8_or_cannot_be_printed(tmp_path: Path) -> None:
    """File names are bytes: here in Latin-1, printed on a terminal that has ASCII alone."""
    latin = os.fsdecode(b"\xe9")
    folder, file = tmp_path / f"photos {latin}", tmp_path / f"photos {latin}.h5"
    write_image_files(folder, [f"caf{latin}", "é"], (SIDE, SIDE))
    record = tmp_path / f"run {latin}.h5"
    image = next(folder.glob("train/*/*.png"))
    image = image.rename(image.with_stem(f"photo {latin}"))
    checkpoints = str(folder_of(record))

    def output(*arguments: str, ranks: int | None = None) -> str:
        command = vigmpi(*arguments, ranks=ranks)
        done = finish(start(command, environ={"PYTHONIOENCODING": "ascii"}), timeout=200)
        assert done.returncode == 0, done.stderr
        return done.stdout

    output("prepare", str(folder), "--image-size", str(SIDE), "--output", str(file))
    settings = ["--batch-size", "4", "--blocks", "2", "--epochs", "1", "--record", str(record)]
    output("--data-dir", str(file), "--dataset", "folder", "--replicas", "2", *settings, ranks=2)
    output("--resume", checkpoints, "--epochs", "2", ranks=2)
    with h5py.File(record) as content:
        assert r"photos \udce9.h5" in content["configuration"].attrs["data_dir"]
        assert set(content["steps/epoch"][:]) == {0, 1}
    output("evaluate", "--checkpoint", checkpoints)
    printed = output("predict", "--checkpoint", checkpoints, str(image))
    assert r"photo \udce9.png" in printed
    assert r"caf\udce9" in printed
    named = json.loads(
        output("predict", "--format", "json", "--checkpoint", checkpoints, str(image))
    )
    assert Path(named[0]["image"]) == image
    assert list(named[0]["classes"]) == [r"caf\udce9", "é"]


@pytest.mark.skipif(
    "VIGMPI_CIFAR10_JPEG" not in os.environ,
    reason="needs VIGMPI_CIFAR10_JPEG: an archive of CIFAR-10 as JPEG files in class folders",
)
def test_prepare_converts_all_of_cifar10_from_jpeg_files(tmp_path: Path) -> None:
    source, output = os.environ["VIGMPI_CIFAR10_JPEG"], tmp_path / "cifar10.h5"
    stderr_of(vigmpi("prepare", source, "--output", str(output)))
    dataset = PreparedFile(output, "cifar10")
    dataset.load(images=True, labels=True)
    assert (dataset.num_classes, dataset.image_size) == (10, (32, 32))
    for phase, count in ((Phase.TRAIN, 50_000), (Phase.TEST, 10_000)):
        assert dataset.num_images[phase] == count
        labels = dataset.labels(phase, np.arange(count))
        assert labels.tolist() == sorted(labels.tolist())
        assert np.bincount(labels).tolist() == [count // 10] * 10
    mean, _ = dataset.mean_and_std()
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=0.002)
    image = (dataset.images(Phase.TEST, np.array([5000]))[0] * 255).round().astype(np.uint8)
    assert Image.fromarray(image.transpose(1, 2, 0)).size == (32, 32)


def test_few_steps_cause_one_warning(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    write_image_files(folder, CLASSES, (SIDE, SIDE))
    data = ["--dataset", "folder", "--data-dir", str(folder), "--blocks", "1"]
    for epochs, warnings in (("1", 1), ("30", 0)):
        length = ["--batch-size", "4", "--epochs", epochs, "--record", str(tmp_path / epochs)]
        err = stderr_of(vigmpi(*data, *length))
        assert err.count("only 3 training steps") == warnings
        assert err.count("warning: ") == warnings
