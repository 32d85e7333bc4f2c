"""Tests of loading CIFAR-10 from a small archive in the published layout."""

import hashlib
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vigmpi.datasets import default_dataset
from vigmpi.datasets.cifar10 import Cifar10
from vigmpi.datasets.torchvision_import import torchvision_datasets
from vigmpi.errors import InputError
from vigmpi.phase import Phase

NUM_IMAGES = 4  # in each of the six files
TRAIN, TEST = [f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a folder with the archive and register its digests in torchvision."""
    random = np.random.default_rng(0)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [*TRAIN, *TEST]:
        pixels = random.integers(256, size=(NUM_IMAGES, 3072), dtype=np.uint8)
        labels = random.integers(10, size=NUM_IMAGES).tolist()
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": labels}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    cifar10 = torchvision_datasets().CIFAR10
    digests = {path.name: md5(path) for path in folder.iterdir()}
    meta: dict[str, Any] = cifar10.meta | {"md5": digests["batches.meta"]}
    monkeypatch.setattr(cifar10, "train_list", [[name, digests[name]] for name in TRAIN])
    monkeypatch.setattr(cifar10, "test_list", [[name, digests[name]] for name in TEST])
    monkeypatch.setattr(cifar10, "meta", meta)
    monkeypatch.setattr(cifar10, "tgz_md5", md5(archive))
    return tmp_path


def remove_folder(data_dir: Path) -> None:
    for path in (data_dir / "cifar-10-batches-py").iterdir():
        path.unlink()
    (data_dir / "cifar-10-batches-py").rmdir()


@pytest.mark.parametrize("unpacked", [True, False])
def test_images_and_labels_equal_those_of_the_files(data_dir: Path, unpacked: bool) -> None:
    files = data_dir / "cifar-10-batches-py"
    batch = pickle.loads((files / "data_batch_2").read_bytes())  # noqa: S301
    if not unpacked:
        remove_folder(data_dir)
    dataset = Cifar10(data_dir, seed=0)
    dataset.prepare(download=False, progress=lambda *_: None)
    dataset.load(images=True, labels=True)
    second = NUM_IMAGES + np.arange(NUM_IMAGES)
    expected = batch["data"].reshape(NUM_IMAGES, 3, 32, 32) / np.float32(255)
    np.testing.assert_array_equal(dataset.images(Phase.TRAIN, second), expected)
    assert dataset.labels(Phase.TRAIN, second).tolist() == batch["labels"]
    assert dataset.num_images == {Phase.TRAIN: 50_000, Phase.TEST: 10_000}
    assert dataset.images(Phase.TEST, np.arange(NUM_IMAGES)).shape == (NUM_IMAGES, 3, 32, 32)


def test_cifar10_is_the_default_if_it_is_in_the_data_folder(data_dir: Path, tmp_path: Path) -> None:
    assert default_dataset(data_dir) == "cifar10"
    remove_folder(data_dir)
    assert default_dataset(data_dir) == "cifar10"
    assert default_dataset(tmp_path / "elsewhere") == "digits"


def test_a_modified_file_is_rejected_before_it_is_unpickled(data_dir: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (data_dir / "attacked",)

    (data_dir / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps(Attack()))
    dataset = Cifar10(data_dir, seed=0)
    dataset.prepare(download=False, progress=lambda *_: None)
    with pytest.raises(
        InputError, match=r"cannot read CIFAR-10: .*cifar-10-batches-py \(.*digits\.$"
    ):
        dataset.load(images=True, labels=False)
    assert not (data_dir / "attacked").exists()


def test_a_damaged_archive_is_rejected(data_dir: Path) -> None:
    remove_folder(data_dir)
    archive = data_dir / "cifar-10-python.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"damaged archive: .*Use --download to fetch it again\.$"):
        Cifar10(data_dir, seed=0).prepare(download=False, progress=lambda *_: None)


def test_the_message_about_missing_files_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not found: .*Use --download.*--dataset digits\.$"):
        Cifar10(tmp_path, seed=0).prepare(download=False, progress=lambda *_: None)


def test_a_failed_download_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision_datasets().CIFAR10, "url", "http://127.0.0.1:9/cifar.tar.gz")
    with pytest.raises(InputError, match=r"cannot download .*: .*refused.*by hand .*\.$") as error:
        Cifar10(tmp_path, seed=0).prepare(download=True, progress=lambda *_: None)
    assert "\n" not in str(error.value)


def test_a_rank_that_needs_nothing_reads_nothing(tmp_path: Path) -> None:
    Cifar10(tmp_path / "nowhere", seed=0).load(images=False, labels=False)
