import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.images import write_pictures
from vigmpi.datasets import DATASETS
from vigmpi.datasets.class_folders import ClassFolders
from vigmpi.datasets.dataset import Dataset
from vigmpi.errors import InputError
from vigmpi.phase import Phase

CLASSES, SIDES = ["owl", "cat", "ant"], (9, 12)


def opened(folder: Path) -> Dataset:
    dataset = DATASETS["folder"](folder, 0)
    dataset.prepare(download=False)
    dataset.load(images=True, labels=True)
    return dataset


def test_images_are_those_of_the_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path, CLASSES, SIDES)
    dataset = opened(tmp_path)
    assert isinstance(dataset, ClassFolders)
    assert (dataset.num_classes, dataset.image_size) == (3, SIDES)
    assert dataset.description == (
        f"folder ({tmp_path}/: 3 classes, 9x12 pixels; 12 training and 12 test images)"
    )
    for phase in Phase:
        names = sorted(name for name in pictures if name.startswith(phase))
        order = np.random.default_rng(0).permutation(len(names))
        expected = np.array([pictures[names[i]] for i in order]) / np.float32(255)
        np.testing.assert_array_equal(dataset.images(phase, order), expected)
        of_name = [sorted(CLASSES).index(names[i].split("/")[1]) for i in order]
        assert dataset.labels(phase, order).tolist() == of_name


def test_images_of_several_sizes_are_sent_to_the_preparation(tmp_path: Path) -> None:
    write_pictures(tmp_path, CLASSES, SIDES)
    Image.new("RGB", (9, 9)).save(tmp_path / "test/owl/3.png")
    with pytest.raises(InputError, match=r"several sizes \(.*test/owl/3.png.*type: python -m data"):
        opened(tmp_path)


def test_a_file_that_is_no_image_is_named_before_the_run(tmp_path: Path) -> None:
    write_pictures(tmp_path, CLASSES, SIDES)
    (tmp_path / "train/cat/2.png").write_text("no image")
    with pytest.raises(InputError, match=r"train/cat/2.png is no image.*no format that Pillow"):
        opened(tmp_path)


def test_a_file_that_vanishes_during_the_run_is_named(tmp_path: Path) -> None:
    write_pictures(tmp_path, CLASSES, SIDES)
    dataset = opened(tmp_path)
    (tmp_path / "train/ant/0.png").unlink()
    with pytest.raises(InputError, match=r"train/ant/0.png can't be read"):
        dataset.images(Phase.TRAIN, np.array([0]))


@pytest.mark.parametrize("kind", ["nothing", "a pipe"])
def test_where_no_images_are_the_message_says_what_to_do(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "data"
    if kind == "a pipe":
        os.mkfifo(path)
    with pytest.raises(InputError, match=r"data can't be read .*type: --data-dir"):
        opened(path)


def test_other_images_have_another_identity(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_pictures(tmp_path / folder, CLASSES, SIDES)
    same = opened(tmp_path / "a").identity, opened(tmp_path / "b").identity
    assert same[0] == same[1]
    (tmp_path / "b/train/owl/0.png").rename(tmp_path / "b/train/owl/9.png")
    assert opened(tmp_path / "b").identity != same[0]
