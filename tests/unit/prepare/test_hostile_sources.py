"""Tests that a damaged or hostile source yields one line, status 2 and no file."""

import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.images import write_image_files
from tests.launching import prepare
from vigmpi.errors import InputError
from vigmpi.prepare.members import members

CLASSES, SIDES = ["cat", "owl"], (8, 8)
BAD = "train/owl/bad.png"


def rejected(source: Path, capfd: pytest.CaptureFixture[str]) -> str:
    output = source.parent / "out.h5"
    assert prepare(str(source), "--output", str(output)) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("vigmpi: error: ")
    assert err.count("\n") == 1
    assert ": " in err.removeprefix("vigmpi: error: ")
    assert err.endswith(".\n")
    assert not output.exists()
    assert not list(source.parent.glob(".*.part"))
    return err


def png(width: int, height: int, pixels: bytes) -> bytes:
    """Return a PNG with an arbitrary header."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(pixels))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + data + chunk(b"IEND", b"")


def truncated_jpeg() -> bytes:
    content = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(content, "jpeg")
    return content.getvalue()[:-200]


FILES = {
    "not an image": (b"#!/bin/sh\n", "format not supported by Pillow"),
    "empty": (b"", "format not supported by Pillow"),
    "truncated": (truncated_jpeg(), "truncated"),
    "bomb": (png(60_000, 60_000, b""), "exceeds limit"),
    "smaller bomb": (png(10_000, 10_000, b""), "exceeds limit"),
    "no pixels": (png(8, 8, b""), "cannot read 1 of 17 images"),
    "large": (bytes(2**26 + 1), "larger than 64 MiB"),
    "a program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "format not supported"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_not_a_complete_image_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    content, message = FILES[case]
    write_image_files(tmp_path / "photos", CLASSES, SIDES)
    (tmp_path / "photos" / BAD).write_bytes(content)
    line = rejected(tmp_path / "photos", capfd)
    assert BAD in line
    assert message in line


def remove(path: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for file in (folder / path).iterdir():
            file.unlink()

    return change


def drop(path: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        remove(path)(folder)
        (folder / path).rmdir()

    return change


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty class": (remove("train/owl"), "class without images: train/owl/"),
    "empty test class": (remove("test/owl"), "class without images: test/owl/"),
    "other classes in train": (drop("test/owl"), "missing class folders: test/owl/"),
    "other classes in test": (drop("train/owl"), "missing class folders: train/owl/"),
    "no test": (lambda f: (f / "test").rename(f / "tset"), "contains train/, tset/. Use --test-sh"),
    "link": (lambda f: (f / BAD).symlink_to("/etc/passwd"), f"images: {BAD} (format not supp"),
    "pipe": (lambda f: os.mkfifo(f / BAD), f"{BAD} (not a regular file)"),
    "cycle": (lambda f: (f / "train/owl/x").symlink_to(f), "that contains it: train/owl/x/"),
    "no class": (lambda f: (f / "train/x.png").write_bytes(b""), "class folder: train/x.png"),
    "newline": (lambda f: (f / "train/owl/a\nb.png").write_bytes(b""), ": train/owl/a\\nb.png ("),
    "deep": (lambda f: (f / "train/owl" / ("d/" * 30)).mkdir(parents=True), "folders deep"),
    "link to itself": (lambda f: (f / BAD).symlink_to("bad.png"), f"{BAD} (Too many levels of"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_with_a_wrong_layout_is_rejected(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    change, message = FOLDERS[case]
    write_image_files(tmp_path / "photos", CLASSES, SIDES)
    change(tmp_path / "photos")
    assert message in rejected(tmp_path / "photos", capfd)


def member(name: str, **header: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in header.items():
        setattr(info, key, value)
    return info


TARS = {
    "outside": (member("../evil.png"), "path leads out of its folder: ../evil.png"),
    "absolute": (member("/etc/evil.png"), "path leads out of its folder: /etc/evil.png"),
    "hidden outside": (member("train/owl/../../../x"), "leads out of its folder"),
    "link": (member(BAD, type=tarfile.SYMTYPE, linkname="/etc/passwd"), f"{BAD}. Pack the file"),
    "hard link": (member(BAD, type=tarfile.LNKTYPE, linkname="train/owl/0.png"), "link or device"),
    "pipe": (member(BAD, type=tarfile.FIFOTYPE), "link or device"),
    "device": (member(BAD, type=tarfile.CHRTYPE), "link or device"),
    "twice": (member("train/owl/0.png"), "train/owl/0.png. Pack each file only once."),
    "long name": (member("x" * 2**21), "header of impossible size"),
    "deep": (member("d/" * 2**18 + "x.png"), "more than 20 folders deep: d/d/d/"),
}


@pytest.mark.parametrize("case", TARS)
def test_a_hostile_member_of_a_tar_archive_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    info, message = TARS[case]
    write_image_files(tmp_path / "photos", CLASSES, SIDES)
    with tarfile.open(tmp_path / "photos.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(tmp_path / "photos", "photos")
        tar.addfile(member(f"photos/{info.name}") if case == "twice" else info)
    assert message in rejected(tmp_path / "photos.tar", capfd)


def test_a_hostile_member_of_a_zip_archive_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    link = zipfile.ZipInfo(BAD)
    link.external_attr = 0o120777 << 16
    for info, message in (
        (zipfile.ZipInfo("../x"), "leads out of its folder: ../x."),
        (link, f"{BAD}. Pack"),
    ):
        with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
            archive.writestr(info, "/etc/passwd")
        assert message in rejected(tmp_path / "photos.zip", capfd)


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_image_files(tmp_path / "photos", CLASSES, SIDES)
    source = tmp_path / "photos.zip"
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (tmp_path / "photos").rglob("*.png"):
            archive.write(path, path.relative_to(tmp_path / "photos"))
        with archive.open(zipfile.ZipInfo(BAD), "w") as file:
            for _ in range(65):
                file.write(bytes(2**20))
    assert f"{BAD} (larger than 64 MiB)" in rejected(source, capfd)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x05\x06" + bytes(5)])
def test_a_file_that_is_not_an_archive_is_reported_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes
) -> None:
    (tmp_path / "photos.tar").write_bytes(content)
    archive = tmp_path / "photos.tar"
    assert f"cannot read source: {archive} (" in rejected(archive, capfd)


@pytest.mark.parametrize("arguments", [["nowhere"], [], ["x", "--image-size", "0"], ["x", "--siz"]])
def test_wrong_usage_is_reported_in_one_line(
    capfd: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert prepare(*arguments) == 2
    assert capfd.readouterr().err.count("\n") == 1


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("intact")
    write_image_files(folder / "photos", CLASSES, SIDES, each=1)
    with tarfile.open(folder / "a.tar", "w") as tar, tarfile.open(folder / "a.gz", "w:gz") as gz:
        tar.add(folder / "photos", "photos")
        gz.add(folder / "photos", "photos")
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for path in (folder / "photos").rglob("*.png"):
            archive.write(path, path.relative_to(folder))
    return [folder / name for name in ("a.tar", "a.gz", "a.zip")]


@given(
    st.integers(0, 2),
    st.lists(st.integers(0, 2**32), min_size=1, max_size=6),
    st.integers(0, 2**32),
)
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_damaged_archive_is_read_or_reported_in_one_line(
    archives: list[Path], tmp_path: Path, archive: int, flips: list[int], end: int
) -> None:
    content = bytearray(archives[archive].read_bytes())
    for flip in flips:
        bit = flip % (8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
    path = tmp_path / "photos"
    path.write_bytes(content[: 1 + end % len(content)])
    message = ""
    try:
        for entry in members(path):
            if entry.read is not None:
                entry.read()
    except InputError as error:
        message = str(error)
    assert "\n" not in message


def test_a_truncated_tar_archive_is_rejected(
    archives: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Check a case in which tarfile reports the end of the archive."""
    path = tmp_path / "photos.tar"
    content = archives[0].read_bytes().rstrip(b"\0")
    path.write_bytes(content[: len(content) // 512 * 512])
    assert f"cannot read source: {path} (" in rejected(path, capfd)


def test_names_that_are_not_text_are_escaped(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(tmp_path / "photos.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(member(os.fsdecode(b"train/\xff/\x1b[2J.png")))
        tar.addfile(member("test/a/b.png"))
    line = rejected(tmp_path / "photos.tar", capfd)
    assert "\\udcff" in line
    assert line.rstrip("\n").isprintable()
