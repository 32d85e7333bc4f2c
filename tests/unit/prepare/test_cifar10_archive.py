"""Tests on small archives in the layouts of the Python and binary versions of CIFAR-10."""

import hashlib
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.launching import prepare
from vigmpi.datasets import default_dataset, open_dataset
from vigmpi.datasets.dataset import Dataset
from vigmpi.datasets.torchvision_import import torchvision_datasets
from vigmpi.phase import Phase
from vigmpi.prepare import cifar10_archive

NUM_IMAGES = 6  # in each of the six files
BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
NAMES = [f"class{i}" for i in range(10)]


class Content:
    """Random images in six batches."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.rows = {
            b: random.integers(256, size=(NUM_IMAGES, 3072), dtype=np.uint8) for b in BATCHES
        }
        self.labels = {b: random.integers(10, size=NUM_IMAGES) for b in BATCHES}

    def python(self, name: str) -> bytes:
        labels = self.labels[name].tolist()
        return pickle.dumps({"data": self.rows[name], "labels": labels}, protocol=2)

    def binary(self, name: str) -> bytes:
        labels = self.labels[name].astype(np.uint8)
        return np.column_stack([labels, self.rows[name]]).tobytes()


@pytest.fixture
def content(monkeypatch: pytest.MonkeyPatch) -> Content:
    monkeypatch.setattr(cifar10_archive, "NUM_IMAGES", NUM_IMAGES)
    return Content()


def write(folder: Path, content: Content, version: str) -> Path:
    folder = folder / f"cifar-10-batches-{version[:3].replace('pyt', 'py')}"
    folder.mkdir(parents=True)
    for name in BATCHES:
        if version == "python":
            (folder / name).write_bytes(content.python(name))
        else:
            (folder / f"{name}.bin").write_bytes(content.binary(name))
    if version == "python":
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": NAMES}, protocol=2))
    else:
        (folder / "batches.meta.txt").write_text("\n".join([*NAMES, "", ""]))
    (folder / "readme.html").write_text("ignored")
    return folder


def publish(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the digests of these files in torchvision as the published ones."""
    cifar10 = torchvision_datasets().CIFAR10

    def md5(name: str) -> str:
        return hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest()

    monkeypatch.setattr(cifar10, "train_list", [[name, md5(name)] for name in BATCHES[:5]])
    monkeypatch.setattr(cifar10, "test_list", [["test_batch", md5("test_batch")]])
    meta: dict[str, Any] = cifar10.meta | {"md5": md5("batches.meta")}
    monkeypatch.setattr(cifar10, "meta", meta)


def prepared(source: Path, data_dir: Path, *flags: str) -> Dataset:
    data_dir.mkdir(exist_ok=True)
    assert prepare(str(source), "--output", str(data_dir / "cifar10.h5"), *flags) == 0
    dataset = open_dataset("cifar10", data_dir, 0)
    dataset.prepare(download=False, progress=lambda *_: None)
    dataset.load(images=True, labels=True)
    return dataset


@pytest.mark.parametrize("version", ["python", "binary"])
@pytest.mark.parametrize("packed", [False, True])
def test_both_published_versions_are_converted(
    tmp_path: Path, content: Content, monkeypatch: pytest.MonkeyPatch, version: str, packed: bool
) -> None:
    source = write(tmp_path / "in", content, version)
    if version == "python":
        publish(source, monkeypatch)
    if packed:
        folder, source = source, tmp_path / "cifar.tar.gz"
        with tarfile.open(source, "w:gz") as tar:
            tar.add(folder, folder.name)
    dataset = prepared(source, tmp_path / "data")
    assert default_dataset(tmp_path / "data") == "cifar10"
    assert dataset.name == "cifar10"
    assert dataset.num_classes == 10
    assert dataset.num_images == {Phase.TRAIN: 5 * NUM_IMAGES, Phase.TEST: NUM_IMAGES}
    for phase, names in ((Phase.TRAIN, BATCHES[:5]), (Phase.TEST, BATCHES[5:])):
        samples = np.arange(dataset.num_images[phase])
        rows = np.concatenate([content.rows[name] for name in names]).reshape(-1, 3, 32, 32)
        labels = np.concatenate([content.labels[name] for name in names])
        np.testing.assert_array_equal(dataset.images(phase, samples), rows / np.float32(255))
        np.testing.assert_array_equal(dataset.labels(phase, samples), labels)


def test_cifar10_can_be_resized(tmp_path: Path, content: Content) -> None:
    dataset = prepared(write(tmp_path, content, "binary"), tmp_path / "data", "--image-size", "48")
    assert dataset.image_size == (48, 48)
    assert dataset.images(Phase.TEST, np.arange(2)).shape == (2, 3, 48, 48)


class Attack:
    """Object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def deep() -> bytes:
    return b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."


def batch(**values: Any) -> bytes:
    valid = {"data": np.zeros((NUM_IMAGES, 3072), np.uint8), "labels": [0] * NUM_IMAGES}
    return pickle.dumps(valid | values, protocol=2)


HOSTILE = {
    "not a pickle": (b"not a pickle", "not a file of CIFAR-10"),
    "deep": (deep(), "not a file of CIFAR-10|not a dictionary"),
    "a terabyte": (b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"x.", "a file of CIFAR-10"),
    "a list": (pickle.dumps([1]), "not a dictionary"),
    "objects": (batch(data=np.full((NUM_IMAGES, 3072), None)), "data is not an array of bytes"),
    "shape": (batch(data=np.zeros((NUM_IMAGES, 7), np.uint8)), f"data has shape ({NUM_IMAGES}, 7)"),
    "labels": (batch(labels=[10] * NUM_IMAGES), f"not {NUM_IMAGES} labels from 0 to 9"),
    "few labels": (batch(labels=[1]), f"not {NUM_IMAGES} labels"),
    "no labels": (batch(labels=["a"] * NUM_IMAGES), "labels have type"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_an_invalid_batch_is_named(
    tmp_path: Path,
    content: Content,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    case: str,
) -> None:
    content_of_batch, message = HOSTILE[case]
    folder = write(tmp_path, content, "python")
    (folder / "data_batch_3").write_bytes(content_of_batch)
    publish(folder, monkeypatch)
    assert prepare(str(folder), "--output", str(tmp_path / "out.h5")) == 2
    err = capfd.readouterr().err
    assert err.startswith("vigmpi: error: not a file of CIFAR-10: data_batch_3 (")
    assert err.endswith(". Use the archive as published.\n")
    assert err.count("\n") == 1
    assert any(part in err for part in message.split("|"))
    assert not (tmp_path / "out.h5").exists()


def test_a_pickle_cannot_call_functions(
    tmp_path: Path,
    content: Content,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = write(tmp_path, content, "python")
    (folder / "test_batch").write_bytes(pickle.dumps(Attack(tmp_path / "attacked")))
    for message in ("MD5 digest is not the published one", "pickle calls pathlib."):
        assert prepare(str(folder), "--output", str(tmp_path / "out.h5")) == 2
        assert message in capfd.readouterr().err
        publish(folder, monkeypatch)  # makes the digest match in the second round
    assert not (tmp_path / "attacked").exists()


def test_a_binary_batch_of_the_wrong_size_is_rejected(
    tmp_path: Path, content: Content, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path, content, "binary")
    with (folder / "data_batch_4.bin").open("ab") as file:
        file.write(b"x")
    assert prepare(str(folder), "--output", str(tmp_path / "out.h5")) == 2
    assert "not a file of CIFAR-10: data_batch_4.bin (18439 bytes" in capfd.readouterr().err


def test_a_missing_batch_is_named(
    tmp_path: Path, content: Content, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path, content, "binary")
    (folder / "data_batch_2.bin").unlink()
    assert prepare(str(folder), "--output", str(tmp_path / "out.h5")) == 2
    assert "data_batch_2 is missing" in capfd.readouterr().err
