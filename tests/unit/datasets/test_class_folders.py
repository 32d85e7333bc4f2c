import os
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


def opened(folder: Path) -> Dataset:
    dataset = open_dataset("folder", folder, 0)
    dataset.prepare(download=False)
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
    with pytest.raises(InputError, match=r"size: .*test/owl/3.png.*vigmpi prepare .*\.$"):
        opened(tmp_path)


def test_a_file_that_is_not_an_image_is_named_before_the_run(tmp_path: Path) -> None:
    write_image_files(tmp_path, CLASSES, SIDES)
    (tmp_path / "train/cat/2.png").write_text("not an image")
    with pytest.raises(
        InputError, match=r"cannot decode image: train/cat/2.png .*not supported by Pillow.*\.$"
    ):
        opened(tmp_path)


def test_a_file_that_vanishes_during_the_run_is_named(tmp_path: Path) -> None:
    write_image_files(tmp_path, CLASSES, SIDES)
    dataset = opened(tmp_path)
    (tmp_path / "train/ant/0.png").unlink()
    with pytest.raises(InputError, match=r"cannot read file: train/ant/0.png .*\.$"):
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
