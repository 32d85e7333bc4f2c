"""Small archives in the layouts of CIFAR-10's python and binary versions."""

import hashlib
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.launching import prepare
from vigmpi.datasets import DATASETS, default_dataset
from vigmpi.datasets.dataset import Dataset
from vigmpi.datasets.torchvision_import import torchvision_datasets
from vigmpi.phase import Phase
from vigmpi.prepare import cifar10_archive

IMAGES = 6  # in each of the six files
BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
NAMES = [f"class{i}" for i in range(10)]


class Content:
    """Random images in six batches."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.rows = {b: random.integers(256, size=(IMAGES, 3072), dtype=np.uint8) for b in BATCHES}
        self.labels = {b: random.integers(10, size=IMAGES) for b in BATCHES}

    def python(self, name: str) -> bytes:
        labels = self.labels[name].tolist()
        return pickle.dumps({"data": self.rows[name], "labels": labels}, protocol=2)

    def binary(self, name: str) -> bytes:
        labels = self.labels[name].astype(np.uint8)
        return np.column_stack([labels, self.rows[name]]).tobytes()


@pytest.fixture
def content(monkeypatch: pytest.MonkeyPatch) -> Content:
    monkeypatch.setattr(cifar10_archive, "IMAGES", IMAGES)
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
    (folder / "readme.html").write_text("passed over")
    return folder


def publish(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell torchvision that these files' digests are the published ones."""
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
    dataset = DATASETS["cifar10"](data_dir, 0)
    dataset.prepare(download=False)
    dataset.load(images=True, labels=True)
    return dataset


@pytest.mark.parametrize("version", ["python", "binary"])
@pytest.mark.parametrize("packed", [False, True])
def test_both_versions_are_prepared_as_published(
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
    assert dataset.samples == {Phase.TRAIN: 5 * IMAGES, Phase.TEST: IMAGES}
    for phase, names in ((Phase.TRAIN, BATCHES[:5]), (Phase.TEST, BATCHES[5:])):
        every = np.arange(dataset.samples[phase])
        rows = np.concatenate([content.rows[name] for name in names]).reshape(-1, 3, 32, 32)
        labels = np.concatenate([content.labels[name] for name in names])
        np.testing.assert_array_equal(dataset.images(phase, every), rows / np.float32(255))
        np.testing.assert_array_equal(dataset.labels(phase, every), labels)


def test_another_size_is_had_here_too(tmp_path: Path, content: Content) -> None:
    dataset = prepared(write(tmp_path, content, "binary"), tmp_path / "data", "--image-size", "48")
    assert dataset.image_size == (48, 48)
    assert dataset.images(Phase.TEST, np.arange(2)).shape == (2, 3, 48, 48)


class Harm:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def deep() -> bytes:
    return b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."


def batch(**values: Any) -> bytes:
    sound = {"data": np.zeros((IMAGES, 3072), np.uint8), "labels": [0] * IMAGES}
    return pickle.dumps(sound | values, protocol=2)


HOSTILE = {
    "no pickle": (b"no pickle", "not that of CIFAR-10"),
    "deep": (deep(), "not that of CIFAR-10|no dictionary"),
    "a terabyte": (b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"x.", "not that of CIFAR-10"),
    "a list": (pickle.dumps([1]), "no dictionary"),
    "objects": (batch(data=np.full((IMAGES, 3072), None)), "its data are no bytes"),
    "shape": (batch(data=np.zeros((IMAGES, 7), np.uint8)), "its data are"),
    "labels": (batch(labels=[10] * IMAGES), f"not {IMAGES} labels from 0 to 9"),
    "few labels": (batch(labels=[1]), f"not {IMAGES} labels"),
    "no labels": (batch(labels=["a"] * IMAGES), "its labels"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_batch_that_is_none_is_named(
    tmp_path: Path,
    content: Content,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: str,
) -> None:
    """As if its digest were the published one."""
    bad, message = HOSTILE[case]
    folder = write(tmp_path, content, "python")
    (folder / "data_batch_3").write_bytes(bad)
    publish(folder, monkeypatch)
    assert prepare(str(folder), "--output", str(tmp_path / "out.h5")) == 2
    err = capsys.readouterr().err
    assert err.startswith("vigmpi: error: data_batch_3 is not that of CIFAR-10 (")
    assert err.count("\n") == 1
    assert any(part in err for part in message.split("|"))
    assert not (tmp_path / "out.h5").exists()


def test_nothing_is_called_by_a_pickle(
    tmp_path: Path,
    content: Content,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = write(tmp_path, content, "python")
    (folder / "test_batch").write_bytes(pickle.dumps(Harm(tmp_path / "harmed")))
    for message in ("its MD5 digest is another", "it calls pathlib."):
        assert prepare(str(folder), "--output", str(tmp_path / "out.h5")) == 2
        assert message in capsys.readouterr().err
        publish(folder, monkeypatch)  # and once more, now that the digest fits
    assert not (tmp_path / "harmed").exists()


def test_a_binary_batch_of_another_size_is_refused(
    tmp_path: Path, content: Content, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path, content, "binary")
    with (folder / "data_batch_4.bin").open("ab") as file:
        file.write(b"x")
    assert prepare(str(folder), "--output", str(tmp_path / "out.h5")) == 2
    assert "data_batch_4.bin is not that of CIFAR-10 (18439 bytes" in capsys.readouterr().err


def test_a_missing_batch_is_named(
    tmp_path: Path, content: Content, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path, content, "binary")
    (folder / "data_batch_2.bin").unlink()
    assert prepare(str(folder), "--output", str(tmp_path / "out.h5")) == 2
    assert "data_batch_2 is missing" in capsys.readouterr().err
