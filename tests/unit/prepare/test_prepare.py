"""Tests that a prepared file contains exactly the images of its source."""

import hashlib
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.images import write_image_files
from tests.launching import ROOT, prepare
from vigmpi.datasets.prepared import PreparedFile
from vigmpi.phase import Phase

CLASSES, SIDES = ["owl", "cat", "ant"], (8, 8)


def packed(folder: Path, suffix: str, top: str = "") -> Path:
    """Pack a folder's files, in an order that is not that of their names."""
    archive = folder.with_name(f"{folder.name}{suffix}")
    paths = sorted(folder.rglob("*"), key=lambda path: str(path)[::-1])
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in paths:
                file.write(path, f"{top}{path.relative_to(folder)}")
    else:
        mode: Any = f"w:{suffix[5:]}"
        with tarfile.open(archive, mode) as tar:
            for path in paths:
                tar.add(path, f"{top}{path.relative_to(folder)}", recursive=False)
    return archive


def prepared(source: Path, *flags: str) -> PreparedFile:
    output = source.with_name(f"{source.name}.h5")
    assert prepare(str(source), "--output", str(output), *flags) == 0
    dataset = PreparedFile(output, "folder")
    dataset.load(images=True, labels=True)
    return dataset


def pixels(dataset: PreparedFile, phase: Phase) -> np.ndarray:
    images = dataset.images(phase, np.arange(dataset.num_images[phase]))
    return np.round(images * 255).astype(np.uint8)


def test_images_labels_names_and_statistics_equal_those_of_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    images = write_image_files(folder, CLASSES, SIDES)
    dataset = prepared(folder, "--image-size", "8")
    names = {phase: sorted(n for n in images if n.startswith(phase)) for phase in Phase}
    for phase in Phase:
        expected = np.array([images[name] for name in names[phase]])
        np.testing.assert_array_equal(pixels(dataset, phase), expected)
        labels = [sorted(CLASSES).index(name.split("/")[1]) for name in names[phase]]
        assert dataset.labels(phase, np.arange(len(labels))).tolist() == labels
    train = np.array([images[name] for name in names[Phase.TRAIN]]) / 255
    mean, std = dataset.mean_and_std()
    np.testing.assert_allclose(mean, train.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, train.std((0, 2, 3)), rtol=1e-12)
    with h5py.File(tmp_path / "photos.h5") as file:
        assert file["classes"][:].tolist() == [b"ant", b"cat", b"owl"]
        assert file.attrs["source"] == b"photos"
        assert file.attrs["resize_filter"] == b"LANCZOS"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreparedFile]:
    """Create a folder that also contains other files, and the prepared file of its images."""
    folder = tmp_path_factory.mktemp("packed") / "photos"
    write_image_files(folder, CLASSES, SIDES)
    (folder / "README").write_text("ignored")
    (folder / "train/owl/.DS_Store").write_text("ignored")
    return folder, prepared(folder, "--image-size", "8")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.xz", ".zip"])
def test_an_archive_yields_bitwise_the_images_of_its_folder(
    photos: tuple[Path, PreparedFile], suffix: str
) -> None:
    folder, expected = photos
    archive = packed(folder, suffix, top="./more/")
    assert prepared(archive, "--image-size", "8").identity == expected.identity
    with h5py.File(f"{archive}.h5") as file:
        digest = file.attrs["source_sha256"].decode()
    assert digest == hashlib.sha256(archive.read_bytes()).hexdigest()


def test_all_formats_modes_and_sizes_are_converted_to_rgb_of_one_size(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    write_image_files(folder, ["a"], (50, 40), each=1, suffix=".jpg")
    image = Image.fromarray(np.random.default_rng(0).integers(256, size=(9, 8, 3), dtype="u1"))
    grey = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    image.convert("P").save(folder / "train/a/1.gif")
    image.convert("L").save(folder / "train/a/2.bmp")
    image.convert("RGBA").resize((7, 90)).save(folder / "train/a/3.webp", lossless=True)
    image.convert("CMYK").save(folder / "train/a/4.tiff")
    Image.fromarray(grey).save(folder / "train/a/5.png")  # 16 bits per pixel
    converted = pixels(prepared(folder, "--image-size", "8"), Phase.TRAIN)
    assert converted.shape == (6, 3, 8, 8)
    for row, name in enumerate(sorted(path.name for path in (folder / "train/a").iterdir())):
        if name == "5.png":
            expected = np.broadcast_to(np.round(grey / 257), (3, 8, 8))
        else:
            with Image.open(folder / "train/a" / name) as file:
                rgb = file.convert("RGB")
            expected = np.asarray(rgb.resize((8, 8), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
        np.testing.assert_array_equal(converted[row], expected, err_msg=name)


def test_an_existing_file_is_kept_unless_overwriting_is_requested(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, output = tmp_path / "photos", tmp_path / "photos.h5"
    write_image_files(folder, CLASSES, SIDES)
    output.write_text("precious")
    assert prepare(str(folder), "--output", str(output)) == 2
    assert f"output file exists: {output}. Use --overwrite or " in capfd.readouterr().err
    assert output.read_text() == "precious"
    assert prepared(folder, "--overwrite").num_classes == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "photos.h5"]


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_conversion_leaves_no_incomplete_file_under_the_final_name(
    tmp_path: Path, sent: signal.Signals
) -> None:
    folder, output = tmp_path / "photos", tmp_path / "photos.h5"
    write_image_files(folder, CLASSES, SIDES)
    for phase in Phase:  # enough images to interrupt the conversion
        for i in range(10, 1500):
            (folder / f"{phase}/owl/{i}.png").hardlink_to(folder / f"{phase}/owl/0.png")
    command = [sys.executable, "-m", "vigmpi", "prepare", str(folder), "--output", str(output)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while not list(tmp_path.glob(".photos.h5.*.part")):
        assert time.monotonic() < limit
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(sent)
    expected = -sent if sent is signal.SIGKILL else 128 + sent
    assert process.wait(60) == expected
    assert not output.exists()
    assert bool(list(tmp_path.glob(".*.part"))) == (sent is signal.SIGKILL)
