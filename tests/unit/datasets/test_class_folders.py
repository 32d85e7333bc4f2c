import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.images import write_image_files
from vigmpi.datasets import open_dataset
from vigmpi.datasets.class_folders import ClassFolders
from vigmpi.datasets.dataset import Dataset
from vigmpi.errors import InputError
from vigmpi.phase import Phase

CLASSES, SIDES = ["owl", "cat", "ant"], (9, 12)


def unseen(done: int, total: int) -> None:
    """Show no progress."""


def opened(folder: Path, test_share: float = 0.0) -> Dataset:
    dataset = open_dataset("folder", folder, 0, test_share=test_share)
    dataset.prepare(download=False, progress=unseen)
    dataset.load(images=True, labels=True)
    return dataset


def test_images_equal_those_of_the_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    images = write_image_files(tmp_path, CLASSES, SIDES)
    dataset = opened(tmp_path)
    assert isinstance(dataset, ClassFolders)
    assert (dataset.num_classes, dataset.image_size) == (3, SIDES)
    assert dataset.description == (
        f"folder ({tmp_path}/: 3 classes, 9x12 pixels; 12 training and 12 test images)"
    )
    for phase in Phase:
        names = sorted(name for name in images if name.startswith(phase))
        order = np.random.default_rng(0).permutation(len(names))
        expected = np.array([images[names[i]] for i in order]) / np.float32(255)
        np.testing.assert_array_equal(dataset.images(phase, order), expected)
        labels = [sorted(CLASSES).index(names[i].split("/")[1]) for i in order]
        assert dataset.labels(phase, order).tolist() == labels


def test_images_of_different_sizes_are_rejected_with_the_command_that_resizes_them(
    tmp_path: Path,
) -> None:
    write_image_files(tmp_path, CLASSES, SIDES)
    Image.new("RGB", (9, 9)).save(tmp_path / "test/owl/3.png")
    with pytest.raises(InputError, match=r"size: 9x9 .*test/owl/3.png.* to 9x12 .*vigmpi prepare "):
        opened(tmp_path)
    shutil.rmtree(tmp_path / "test")
    (tmp_path / "train/cat/0.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"run vigmpi prepare .* --test-share 0.5 --skip-unread"):
        opened(tmp_path, test_share=0.5)


def test_all_files_that_are_no_images_are_named_before_the_run(tmp_path: Path) -> None:
    write_image_files(tmp_path, CLASSES, SIDES)
    (tmp_path / "train/cat/2.png").write_text("not an image")
    (tmp_path / "test/owl/0.png").unlink()
    (tmp_path / "test/owl/0.png").symlink_to("nowhere")
    reasons = (
        r"cannot read 2 of 24 images: train/cat/2.png \(format not supported by Pillow\), "
        r"test/owl/0.png \(No such file or directory\)\. .*--skip-unreadable\.$"
    )
    with pytest.raises(InputError, match=reasons):
        opened(tmp_path)


def test_headers_alone_are_read(tmp_path: Path) -> None:
    """The pixels of a photograph are not decoded before the memory of the run is forecast."""
    write_image_files(tmp_path, CLASSES, SIDES)
    content = (tmp_path / "train/cat/2.png").read_bytes()
    (tmp_path / "train/cat/2.png").write_bytes(content[:60])
    dataset = opened(tmp_path)
    with pytest.raises(InputError, match=r"cannot read image: train/cat/2.png"):
        dataset.images(Phase.TRAIN, np.arange(12))


def test_another_host_lists_its_files_only_if_it_sees_another_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_image_files(tmp_path / name, CLASSES, SIDES)
    first = opened(tmp_path / "a")

    def opened_elsewhere(folder: Path) -> int:
        """Return how many files were listed."""
        files = []
        dataset = open_dataset("folder", folder, 0)
        dataset.index = first.index
        dataset.prepare(download=False, progress=lambda done, _: files.append(done))
        dataset.load(images=True, labels=True)
        assert dataset.identity == first.identity
        return len(files)

    assert opened_elsewhere(tmp_path / "a") == 0
    assert opened_elsewhere(tmp_path / "b") == 24 + 8  # files and folders
    (tmp_path / "b/train/notes.txt").write_text("no image")
    assert opened_elsewhere(tmp_path / "b") == 24 + 8 + 1
    (tmp_path / "b/train/owl/0.png").rename(tmp_path / "b/train/owl/9.png")
    with pytest.raises(InputError, match=r"images differ between hosts: --data-dir .*/b"):
        opened_elsewhere(tmp_path / "b")
    with pytest.raises(InputError, match=r"cannot read the data set: .*/nowhere \(No such file"):
        opened_elsewhere(tmp_path / "nowhere")


def test_the_check_of_all_headers_is_shown(tmp_path: Path) -> None:
    write_image_files(tmp_path, CLASSES, SIDES)
    calls: list[tuple[int, int]] = []
    dataset = open_dataset("folder", tmp_path, 0)
    dataset.prepare(download=False, progress=lambda done, total: calls.append((done, total)))
    assert calls == [*((i, 0) for i in range(1, 33)), *((i, 24) for i in range(1, 25))]


def test_an_image_that_changes_its_size_during_the_run_is_named(tmp_path: Path) -> None:
    write_image_files(tmp_path, CLASSES, SIDES)
    dataset = opened(tmp_path)
    Image.new("RGB", (12, 1)).save(tmp_path / "train/ant/0.png")
    with pytest.raises(InputError, match=r"train/ant/0.png \(its size has changed\)"):
        dataset.images(Phase.TRAIN, np.array([0]))


def test_a_share_of_each_class_becomes_the_test_images(tmp_path: Path) -> None:
    images = write_image_files(tmp_path, CLASSES, SIDES, each=10)
    shutil.rmtree(tmp_path / "test")
    dataset = opened(tmp_path, test_share=0.2)
    assert dataset.num_images == {Phase.TRAIN: 24, Phase.TEST: 6}
    assert "6 images, 0.2 of each class by a hash of their names" in dataset.description
    seen = [
        image.tobytes()
        for phase in Phase
        for image in dataset.images(phase, np.arange(dataset.num_images[phase]))
    ]
    expected = [v / np.float32(255) for name, v in images.items() if name.startswith("train")]
    assert sorted(seen) == sorted(image.tobytes() for image in expected)
    assert dataset.labels(Phase.TEST, np.arange(6)).tolist() == [0, 0, 1, 1, 2, 2]


def test_a_file_that_vanishes_during_the_run_is_named(tmp_path: Path) -> None:
    write_image_files(tmp_path, CLASSES, SIDES)
    dataset = opened(tmp_path)
    (tmp_path / "train/ant/0.png").unlink()
    with pytest.raises(InputError, match=r"cannot read image: train/ant/0.png .*\.$"):
        dataset.images(Phase.TRAIN, np.array([0]))


@pytest.mark.parametrize("kind", ["nothing", "a pipe"])
def test_the_message_about_missing_images_says_what_to_do(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "data"
    if kind == "a pipe":
        os.mkfifo(path)
    with pytest.raises(
        InputError, match=r"cannot read the data set: .*data \(.*Use --data-dir .*\.$"
    ):
        opened(path)


def test_the_identity_depends_on_the_names_of_the_images(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_image_files(tmp_path / folder, CLASSES, SIDES)
    identity = opened(tmp_path / "a").identity
    assert opened(tmp_path / "b").identity == identity
    (tmp_path / "b/train/owl/0.png").rename(tmp_path / "b/train/owl/9.png")
    assert opened(tmp_path / "b").identity != identity
