"""Tests of what is understood in a folder of images, and what is refused."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from vigmpi.datasets.listing import Listing, list_images
from vigmpi.errors import InputError
from vigmpi.phase import Phase


def listing(names: Sequence[str], test_share: float = 0.0) -> Listing:
    """Return the listing of these files; names that end in a slash are folders."""
    members = [(name.rstrip("/"), name.endswith("/")) for name in names]
    return list_images(members, Path("photos"), test_share)


def in_folders(train: str, test: str, top: str = "") -> list[str]:
    return [f"{top}{phase}/{name}/1.jpg" for phase in (train, test) for name in ("cat", "owl")]


@pytest.mark.parametrize(
    ("train", "test", "remark"),
    [
        ("train", "test", ""),
        ("Train", "Test", ""),
        ("TRAINING", "Testing", ""),
        ("train", "val", "val/ holds the test images"),
        ("training", "valid", "valid/ holds the test images"),
        ("Train", "Validation", "Validation/ holds the test images"),
    ],
)
@pytest.mark.parametrize("top", ["", "photos/", "a/b/c/"])
def test_folders_of_both_phases_have_many_names(
    train: str, test: str, remark: str, top: str
) -> None:
    found = listing(in_folders(train, test, top))
    assert found.class_names == ("cat", "owl")
    assert found.files[Phase.TRAIN] == [f"{top}{train}/cat/1.jpg", f"{top}{train}/owl/1.jpg"]
    assert found.files[Phase.TEST] == [f"{top}{test}/cat/1.jpg", f"{top}{test}/owl/1.jpg"]
    assert found.labels == {Phase.TRAIN: [0, 1], Phase.TEST: [0, 1]}
    assert "; ".join(found.remarks) == (f"{top}{remark}" if remark else "")


def test_what_is_not_used_is_said() -> None:
    names = [*in_folders("train", "test"), "val/cat/1.jpg", "val/owl/2.jpg", "cover.png"]
    assert listing(names).remarks == ("not used: val/ (images: 2), cover.png",)
    unlabelled = [*in_folders("train", "val"), "test/1.jpg"]
    assert listing(unlabelled).remarks == (
        "val/ holds the test images",
        "not used: test/ (images: 1)",
    )


def test_what_is_no_image_is_skipped_and_counted() -> None:
    others = ["Thumbs.db", "train/cat/desktop.ini", "train/cat/.DS_Store", "train/@eaDir/x.jpg"]
    others += ["__MACOSX/train/cat/._1.jpg", "train/labels.csv", "test/cat/notes.TXT", "LICENSE"]
    found = listing([*in_folders("train", "test"), *others, "train/.cache/", "test/cat/2.txt"])
    assert found.files == listing(in_folders("train", "test")).files
    assert found.remarks == (
        "skipped files: 5 hidden or desktop, 2 *.txt, 1 *.csv, 1 without a suffix",
    )


def test_a_share_of_each_class_is_chosen_by_name_alone() -> None:
    names = [f"{name}/{i}.jpg" for name in ("ant", "bee", "cat") for i in range(50)]
    found = listing(names, 0.2)
    assert [len(found.files[phase]) for phase in Phase] == [120, 30]
    assert found.labels[Phase.TEST] == [0] * 10 + [1] * 10 + [2] * 10
    assert sorted(found.files[Phase.TRAIN] + found.files[Phase.TEST]) == sorted(names)
    assert listing([f"top/train/{name}" for name in reversed(names)], 0.2).files == {
        phase: [f"top/train/{name}" for name in found.files[phase]] for phase in Phase
    }
    more = listing([*names, *(f"ant/{i}.jpg" for i in range(50, 60))], 0.2).files[Phase.TEST]
    assert len(set(found.files[Phase.TEST]) - set(more)) <= 4
    smallest = listing(["ant/1.jpg", "ant/2.jpg", "bee/1.jpg", "bee/2.jpg"], 0.99)
    assert [len(smallest.files[phase]) for phase in Phase] == [2, 2]


@pytest.mark.parametrize(
    ("names", "test_share", "message"),
    [
        ([], 0, "no images: photos. Use"),
        (
            ["a.txt", "b/c.heic"],
            0.2,
            "no images: b/ in photos (skipped files: 1 *.txt, 1 *.heic). Use",
        ),
        (["1.jpg", "2.jpg"], 0, "photos contains images outside of folders (2, the first: 1.jpg)"),
        (
            ["cats/1.jpg", "cats/2.jpg"],
            0.5,
            "class folders: cats/ in photos contains images outside of f",
        ),
        (["cat/1.jpg", "owl/1.jpg"], 0, "no test images: photos contains cat/, owl/. Use --test-"),
        (["train/cat/1.jpg"], 0, "no test images: photos contains train/. Use --test-share"),
        (["train/cat/1.jpg", "test/1.jpg"], 0, "no test images: photos contains test/, train/."),
        (["test/cat/1.jpg"], 0, "no training images: photos contains test/. Use"),
        (
            in_folders("train", "test"),
            0.2,
            "test images exist: --test-share 0.2 for photos with te",
        ),
        (["a/train/cat/1.jpg", "b/test/cat/1.jpg"], 0.2, "within class folders: a/train/, b/test/"),
        (["cat/a/1.jpg", "cat/b/1.jpg", "dog/1.heic"], 0.5, "class without images: dog/ (skipped"),
        (
            [*in_folders("train", "test", "a/"), "docs/a.txt"],
            0,
            "within class folders: a/train/, a/t",
        ),
        (["train/train/cat/1.jpg"], 0.2, "test images within class folders: train/train/. Use"),
        (
            in_folders("train", "val", "train/"),
            0.2,
            "within class folders: train/train/, train/val",
        ),
        (
            ["train/a/1.jpg", "bus/1.jpg", "car/1.jpg"],
            0.5,
            "training images, or a class like bus/,",
        ),
        (in_folders("train", "Train"), 0.2, "ambiguous folders: train/ and Train/ in photos"),
        (
            [*in_folders("train", "val"), *in_folders("train2", "valid")],
            0,
            "ambiguous folders: val/ and valid/ in photos. Keep one",
        ),
        (
            [*in_folders("train", "test"), "train/1.png", "test/2.png"],
            0,
            "train/1.png, test/2.png.",
        ),
        (["cat/1.jpg", "owl/1.jpg", "3.jpg"], 0.2, "not in a class folder: 3.jpg. Use"),
        (["cat/1.jpg", "owl/1.jpg"], 0.2, "class with a single image: cat/, owl/. Add"),
        (
            [*in_folders("train", "test"), "train/bat/"],
            0,
            "class without images: train/bat/. Remove",
        ),
        (
            [*in_folders("train", "test"), "train/bat/1.heic"],
            0,
            "train/bat/ (skipped files: 1 *.heic)",
        ),
        ([*in_folders("train", "test"), "train/bat/1.jpg"], 0, "missing class folders: test/bat/"),
        (["train/cat/1.jpg"] * 2, 0, "duplicate file: train/cat/1.jpg"),
    ],
)
def test_anything_else_is_refused_with_what_was_found(
    names: list[str], test_share: float, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        listing(names, test_share)
    assert message in str(caught.value)


def test_a_file_without_a_name_is_no_image() -> None:
    names = [*in_folders("train", "test"), ".", "./"]
    assert listing(names).files == listing(in_folders("train", "test")).files


def test_the_choice_of_test_images_is_the_same_in_any_locale() -> None:
    names = [f"Käse/{i}.jpg" for i in range(3)] + [f"\udce9/{i}.jpg" for i in range(3)]
    assert listing(names, 0.4).files[Phase.TEST] == ["Käse/1.jpg", "\udce9/0.jpg"]


def test_a_long_list_is_cut_off() -> None:
    with pytest.raises(InputError, match=r"folder: train/0.png, .*, train/19.png and 4,980 more\."):
        listing([*in_folders("train", "test"), *(f"train/{i}.png" for i in range(5000))])
