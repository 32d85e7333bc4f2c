"""`vigmpi prepare` of what people really have: odd folders, damaged files, small disks."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.images import write_image_files
from tests.launching import ROOT, prepare
from vigmpi.datasets.prepared import PreparedFile
from vigmpi.phase import Phase

CLASSES, SIDES = ["owl", "cat", "ant"], (8, 8)


def prepared(source: Path, *flags: str) -> PreparedFile:
    output = source.with_name(f"{source.name}.h5")
    assert prepare(str(source), "--image-size", "8", "--output", str(output), *flags) == 0
    dataset = PreparedFile(output, "folder")
    dataset.load(images=True, labels=True)
    return dataset


def damage(folder: Path) -> None:
    """Damage one training and two test images in three different ways."""
    whole = folder / "train/cat/1.png"
    whole.write_bytes(whole.read_bytes()[:-100])
    (folder / "test/owl/0.png").write_bytes(b"")
    (folder / "test/ant/3.png").unlink()
    (folder / "test/ant/3.png").symlink_to("nowhere")


def test_all_unreadable_images_are_reported_at_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    write_image_files(folder, CLASSES, SIDES)
    damage(folder)
    assert prepare(folder, "--output", tmp_path / "a.h5") == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(
        "vigmpi: error: cannot read 3 of 24 images: test/ant/3.png (No such file or directory), "
        "test/owl/0.png (format not supported by Pillow), train/cat/1.png ("
    )
    assert error.endswith("). Replace or remove them, or use --skip-unreadable.\n")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_unreadable_images_are_left_out_and_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, clean = tmp_path / "photos", tmp_path / "clean"
    for each in (folder, clean):
        write_image_files(each, CLASSES, SIDES)
    damage(folder)
    for name in ("train/cat/1.png", "test/owl/0.png", "test/ant/3.png"):
        (clean / name).unlink()
    dataset = prepared(folder, "--skip-unreadable")
    assert "left out as unreadable (3): test/ant/3.png (No such " in capfd.readouterr().out
    assert dataset.num_images == {Phase.TRAIN: 11, Phase.TEST: 10}
    assert dataset.identity == prepared(clean).identity  # which holds the digest of all rows
    with h5py.File(tmp_path / "photos.h5") as file:
        skipped = [text.decode().split(" ")[0] for text in file["skipped"][:]]
    assert skipped == ["test/ant/3.png", "test/owl/0.png", "train/cat/1.png"]
    assert not list(tmp_path.glob(".*"))


def test_a_class_whose_images_are_all_unreadable_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    write_image_files(folder, CLASSES, SIDES, each=1)
    (folder / "test/owl/0.png").write_bytes(b"")
    assert prepare(folder, "--output", tmp_path / "a.h5", "--skip-unreadable") == 2
    error = capfd.readouterr().err
    assert "no readable test image of a class: owl; unreadable: test/owl/0.png (" in error
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_links_are_followed(tmp_path: Path) -> None:
    folder, links = tmp_path / "photos", tmp_path / "links"
    write_image_files(folder, CLASSES, SIDES)
    shutil.copytree(folder / "test", links / "test")
    (links / "train/owl").mkdir(parents=True)
    for name in ("cat", "ant"):
        (links / "train" / name).symlink_to(folder / "train" / name)
    for path in (folder / "train/owl").iterdir():
        (links / "train/owl" / path.name).symlink_to(f"../../../photos/train/owl/{path.name}")
    assert prepared(links).identity == prepared(folder).identity


def test_the_summary_says_what_was_made(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "my photos"
    write_image_files(folder, CLASSES, (30, 20))
    (folder / "test").rename(folder / "val")
    (folder / "train/Thumbs.db").write_bytes(b"")
    Image.new("RGB", (40, 50)).save(folder / "train/owl/more.bmp")
    prepared(folder)
    output = shlex.quote(str(tmp_path / "my photos.h5"))
    assert capfd.readouterr().out.splitlines() == [
        f"prepared: {tmp_path / 'my photos.h5'} (3 classes, 8x8 pixels)",
        "val/ holds the test images",
        "skipped files: 1 hidden or desktop",
        "sizes found: 30x20 pixels to 50x40 pixels; resized by the filter Lanczos, stretched to a "
        "square",
        "class        training    test",
        "ant                 4       4",
        "cat                 4       4",
        "owl                 5       4",
        "all classes        13      12",
        "train with: mpirun -n 2 vigmpi --model vig_cifar --replicas 2 --dataset folder "
        f"--data-dir {output}",
    ]


@pytest.mark.parametrize(
    ("each", "size", "expected"),
    [
        (51, 8, "vigmpi --model vig_cifar --drop-last --replicas 2 --dataset"),  # 102 images
        (50, 8, "vigmpi --model vig_cifar --replicas 2 --dataset"),
        (1, 8, "vigmpi --replicas 2 --dataset"),  # too few for it
        (1, 10, "vigmpi --replicas 2 --dataset"),  # vig_cifar needs multiples of 4 pixels
    ],
)
def test_the_command_fits_the_images(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], each: int, size: int, expected: str
) -> None:
    write_image_files(tmp_path / "photos", ["a", "b"], SIDES, each=each)
    prepared(tmp_path / "photos", "--image-size", str(size))
    assert expected in capfd.readouterr().out


def test_an_archive_is_split_like_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    write_image_files(folder, CLASSES, SIDES, each=9)
    shutil.rmtree(folder / "test")
    expected = prepared(folder / "train", "--test-share", "0.3")
    assert expected.num_images == {Phase.TRAIN: 18, Phase.TEST: 9}
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "photos")
    assert prepared(Path(archive), "--test-share", "0.3").identity == expected.identity


def test_the_preview_shows_the_images_of_each_class(tmp_path: Path) -> None:
    folder, picture = tmp_path / "photos", tmp_path / "preview.png"
    images = write_image_files(folder, CLASSES, SIDES)
    prepared(folder, "--preview", str(picture))
    with Image.open(picture) as sheet:
        shown = np.asarray(sheet.convert("RGB"))
    for row, name in enumerate(sorted(CLASSES)):
        for column in range(4):
            top, left = 4 + 100 * row, 160 + 100 * column
            cell = shown[top : top + 96 : 12, left : left + 96 : 12].transpose(2, 0, 1)
            np.testing.assert_array_equal(cell, images[f"train/{name}/{column}.png"])
    before = picture.read_bytes()
    assert prepare(folder, "--output", tmp_path / "b.h5", "--preview", picture) == 2
    assert prepare(folder, "--output", picture, "--preview", picture, "--overwrite") == 2
    assert prepare(folder, "--output", tmp_path / "b.h5", "--preview", tmp_path / "no/a.png") == 2
    assert picture.read_bytes() == before
    assert not (tmp_path / "b.h5").exists()


def test_large_images_are_reduced_in_the_preview(tmp_path: Path) -> None:
    folder, picture = tmp_path / "photos", tmp_path / "preview.png"
    write_image_files(folder, [f"class {i}" for i in range(25)], SIDES, each=1)
    prepared(folder, "--image-size", "500", "--preview", str(picture))
    with Image.open(picture) as sheet:
        assert sheet.size == (160 + 8 * 100 + 4, 20 * 100 + 4)
        shown = np.asarray(sheet)[4:100, 160:256].astype(float)
    with Image.open(folder / "train/class 0/0.png") as image:
        expected = np.asarray(image.resize((96, 96), Image.Resampling.LANCZOS), float)
    assert abs(shown - expected).mean() < 3


def test_the_output_does_not_become_a_part_of_the_source(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image_files(tmp_path, CLASSES, SIDES)
    monkeypatch.chdir(tmp_path)
    assert prepare(".") == 2
    assert "output within the source: data/" in capfd.readouterr().err
    assert not Path("data").exists()
    elsewhere = tmp_path.with_suffix(".h5")
    assert prepare(".", "--output", elsewhere, "--preview", "train/cat/9.png") == 2
    assert "output within the source: train/cat/9.png in .. Use --prev" in capfd.readouterr().err


def test_a_link_in_a_circle_is_replaced(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_image_files(tmp_path / "photos", CLASSES, SIDES)
    (tmp_path / "a").symlink_to(tmp_path / "a")
    output = ["--output", str(tmp_path / "a")]
    assert prepare(tmp_path / "photos", *output, "--preview", tmp_path / "a") == 2
    assert "two outputs in one file: " in capfd.readouterr().err
    assert prepare(tmp_path / "photos", *output) == 0
    assert not (tmp_path / "a").is_symlink()


def test_a_source_whose_name_cannot_be_printed(tmp_path: Path) -> None:
    folder = tmp_path / "at 3\N{NARROW NO-BREAK SPACE}PM"
    write_image_files(folder, CLASSES, SIDES)
    assert r"prepared from at 3\u202fPM: " in prepared(folder).details


@pytest.mark.parametrize("value", ["1", "-0.1", "nan"])
def test_a_share_is_a_proper_fraction(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], value: str
) -> None:
    assert prepare(tmp_path, f"--test-share={value}") == 2
    assert "--test-share: expected a fraction" in capfd.readouterr().err


def run_in_namespace(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script and `vigmpi prepare` in mount namespaces of their own."""
    command = ["unshare", "-m", "sh", "-c", f'{script} && exec "$@"', "sh"]
    return subprocess.run(
        [*command, sys.executable, "-m", "vigmpi", "prepare", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


can_mount = pytest.mark.skipif(
    subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode != 0,
    reason="needs the right to mount file systems",
)


@can_mount
@pytest.mark.parametrize("enough", ["for nothing", "for the rows"])
def test_a_full_disk_is_reported_in_one_line(tmp_path: Path, enough: str) -> None:
    folder, disk = tmp_path / "photos", tmp_path / "disk"
    write_image_files(folder, CLASSES, SIDES)
    flags = ["--image-size", "50", "--output"]
    assert prepare(folder, *flags, tmp_path / "a.h5") == 0
    pages = (tmp_path / "a.h5").stat().st_size // os.sysconf("SC_PAGESIZE")  # rounded down
    size = 16384 if enough == "for nothing" else pages * os.sysconf("SC_PAGESIZE")
    disk.mkdir()
    mount = f"mount -t tmpfs -o size={size} tmpfs {disk}"
    done = run_in_namespace(mount, folder, *flags, disk / "a.h5")
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "Use --output FILE " in done.stderr
    assert "No space left on device" in done.stderr
    if enough == "for nothing":
        assert f"not enough room: 0.2 MiB for {disk}/ (" in done.stderr
        assert "; 0.0 MiB are free)" in done.stderr


@can_mount
@pytest.mark.parametrize("options", ["ro", "nr_inodes=1"])
def test_without_semaphores_one_process_decodes(tmp_path: Path, options: str) -> None:
    folder = tmp_path / "photos"
    write_image_files(folder, CLASSES, SIDES)
    mount = f"mount -t tmpfs -o {options} tmpfs /dev/shm"
    output = tmp_path / "a.h5"
    done = run_in_namespace(mount, folder, "--image-size", "8", "--output", output)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("one process decodes all images") == 1
    dataset = PreparedFile(output, "folder")
    dataset.load(images=True, labels=True)
    assert dataset.identity == prepared(folder).identity


def test_rows_are_complete_if_the_system_writes_less_than_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    write_image_files(folder, CLASSES, SIDES)
    expected = prepared(folder)
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, content, at: write(file, content[:100], at))
    assert prepared(folder, "--overwrite").identity == expected.identity


@can_mount
def test_leaving_images_out_needs_room_for_a_second_file(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    write_image_files(folder, CLASSES, SIDES)
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=260k tmpfs {disk}"
    for flag, status in (("--overwrite", 0), ("--skip-unreadable", 2)):
        options = ["--image-size", "50", "--output", str(disk / "a.h5")]
        done = run_in_namespace(mount, str(folder), *options, flag)
        assert done.returncode == status, done.stderr
    assert "not enough room: " in done.stderr
