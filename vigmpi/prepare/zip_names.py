"""Names of the members of zip archives, which programs store in different ways."""

import struct
import zipfile
import zlib
from collections.abc import Iterator

_UTF_8_FLAG = 0x800
_UNICODE_PATH = 0x7075  # extra field of Info-ZIP
_WINDOWS = 0  # value of `create_system`


def member_name(info: zipfile.ZipInfo) -> str:
    """Return the path of a member, with slashes.

    Programs of Windows separate folders by backslashes, which no name contains there. Without the
    flag for UTF-8, names should have the encoding CP437, but many programs use UTF-8 or that of
    their system. Here, the Unicode path that Info-ZIP adds is taken if it fits, then UTF-8 if the
    name is valid in it, then CP437.
    """
    name = info.orig_filename
    if not info.flag_bits & _UTF_8_FLAG and not name.isascii():
        name = _decoded(name.encode("cp437"), info.extra)
    if info.create_system == _WINDOWS:
        name = name.replace("\\", "/")
    return name.partition("\0")[0]


def _decoded(raw: bytes, extra: bytes) -> str:
    for identifier, content in _fields(extra):
        version, checksum = struct.unpack_from("<BL", content.ljust(5, b"\0"))
        if (identifier, version, checksum) == (_UNICODE_PATH, 1, zlib.crc32(raw)):
            return content[5:].decode(errors="replace")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp437")


def _fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the identifier and the content of each extra field."""
    while len(extra) >= 4:
        identifier, size = struct.unpack_from("<HH", extra)
        yield identifier, extra[4 : 4 + size]
        extra = extra[4 + size :]
