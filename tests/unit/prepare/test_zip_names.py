"""Names in zip archives as different programs write them."""

import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from vigmpi.errors import InputError
from vigmpi.prepare.members import members

WINDOWS, UNIX = 0, 3


def names_in(path: Path, raw: bytes, system: int, extra: bytes = b"") -> list[str]:
    """Write a file with these raw bytes of a name without the UTF-8 flag, and return all names."""
    info = zipfile.ZipInfo("x" * len(raw))
    info.create_system, info.extra = system, extra
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, b"content")
    path.write_bytes(path.read_bytes().replace(b"x" * len(raw), raw))
    names = []
    for member in members(path):
        assert member.read is None or member.read() == b"content"
        names.append(f"{member.name}{' (folder)' * member.is_folder}")
    return names


@pytest.mark.parametrize(
    ("raw", "system", "name"),
    [
        (b"train\\cat\\1.jpg", WINDOWS, "train/cat/1.jpg"),
        (b"train\\cat\\", WINDOWS, "train/cat/ (folder)"),
        (b"train/a\\b.jpg", UNIX, "train/a\\b.jpg"),
        ("train/Käse/1.jpg".encode(), UNIX, "train/Käse/1.jpg"),
        ("train\\Käse\\1.jpg".encode(), WINDOWS, "train/Käse/1.jpg"),
        ("train/Käse/1.jpg".encode("cp437"), UNIX, "train/Käse/1.jpg"),
        ("train/猫/1.jpg".encode("cp932"), UNIX, "train/öL/1.jpg"),
    ],
)
def test_names_are_understood(tmp_path: Path, raw: bytes, system: int, name: str) -> None:
    assert names_in(tmp_path / "a.zip", raw, system) == [name]


def test_the_unicode_path_of_info_zip_is_preferred_if_it_fits(tmp_path: Path) -> None:
    raw, path = "猫.jpg".encode("cp932"), "猫.jpg".encode()
    for checksum, name in ((zlib.crc32(raw), "猫.jpg"), (7, "öL.jpg")):
        extra = struct.pack("<HHBL", 0x7075, 5 + len(path), 1, checksum) + path
        assert names_in(tmp_path / "a.zip", raw, UNIX, extra) == [name]


def test_a_path_that_leads_out_of_its_folder_by_backslashes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leads out of its folder"):
        names_in(tmp_path / "a.zip", b"..\\..\\evil.jpg", WINDOWS)
