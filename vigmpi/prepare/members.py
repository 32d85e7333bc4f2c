"""Members of a folder, a tar or a zip archive, read as streams and never unpacked to disk."""

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Self

from vigmpi.datasets.file_tree import (
    Member,
    UnreadableError,
    checked_parts,
    file_error,
    read_bounded,
    unreadable,
    walk,
)
from vigmpi.errors import InputError, error_reason
from vigmpi.prepare.zip_names import member_name

_MAX_HEADER_BYTES = 2**20
_EXTENDED_TYPES = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_UNREADABLE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    OverflowError,
    MemoryError,
)


def members(source: Path) -> Iterator[Member]:
    """Yield the members of a source; each must be read before the next is requested.

    Raises:
        InputError: if the source is unreadable, a member leads out of its folder, or one of an
            archive is a link or a device.
    """
    if source.is_dir():
        entries = walk(source)
    elif _is_zip(source):
        entries = _zip_members(source)
    else:
        entries = _tar_members(source)
    with _input_errors(source):
        for member in entries:
            checked_parts(member.name)
            yield member


@contextmanager
def _input_errors(source: Path, member: str = "") -> Iterator[None]:
    """Raise InputError for any exception that a damaged source causes in its reader."""
    try:
        yield
    except _UNREADABLE as error:
        name = f"{source}: {member}" if member else str(source)
        remedy = "Use a folder or an intact .tar, .tar.gz, .tar.bz2, .tar.xz or .zip archive."
        raise file_error("cannot read source", name, remedy, error_reason(error)) from error


def _is_zip(source: Path) -> bool:
    with _input_errors(source):
        return zipfile.is_zipfile(source)


class _StrictHeader(tarfile.TarInfo):
    """Header that reports damage.

    tarfile mistakes a damaged or missing header for the end of the archive, and reads names of any
    length into memory.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf.count(b"\0") == tarfile.BLOCKSIZE:
                raise  # end-of-archive marker
            raise tarfile.ReadError("not an archive, or damaged") from error
        extended = header.type in _EXTENDED_TYPES
        if header.size < 0 or (extended and header.size > _MAX_HEADER_BYTES):
            raise tarfile.ReadError("header of impossible size")
        return header


def _tar_members(source: Path) -> Iterator[Member]:
    with tarfile.open(source, "r|*", tarinfo=_StrictHeader) as tar:
        for header in tar:
            tar.members.clear()  # type: ignore[attr-defined]  # keeps memory constant
            regular = header.isreg() and not header.issparse()
            if not (regular or header.isdir()):
                raise _link_or_device(source, header.name)
            read = partial(_read_from_tar, source, tar, header)
            yield Member(header.name, read if regular else None)


def _read_from_tar(source: Path, tar: tarfile.TarFile, header: tarfile.TarInfo) -> bytes:
    with _input_errors(source, header.name):  # after which no other member can be read
        file = tar.extractfile(header)
        assert file is not None
        return read_bounded(file, header.name)


def _zip_members(source: Path) -> Iterator[Member]:
    with zipfile.ZipFile(source) as archive:
        for info in archive.infolist():
            name = member_name(info)
            mode = stat.S_IFMT(info.external_attr >> 16)
            if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _link_or_device(source, name)
            read = partial(_read_from_zip, archive, info, name)
            yield Member(name, None if name.endswith("/") else read)


def _read_from_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> bytes:
    try:
        with archive.open(info) as file:
            return read_bounded(file, name)
    except UnreadableError:
        raise
    except _UNREADABLE as error:
        raise unreadable(name, error_reason(error)) from error


def _link_or_device(source: Path, name: str) -> InputError:
    return file_error("link or device", f"{source}: {name}", "Pack the file that it refers to.")
