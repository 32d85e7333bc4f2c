"""What a folder, a tar or a zip archive holds: read as streams, never unpacked to disk."""

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, Self

from vigmpi.datasets.listing import Member, bounded, checked_parts, refusal, walk
from vigmpi.errors import InputError

_MOST_HEADER_BYTES = 2**20
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    OverflowError,
    MemoryError,
)


def members(source: Path) -> Iterator[Member]:
    """Go through a source, in its own order; a member is read before the next is asked for.

    Raises:
        InputError: it is neither, is damaged, or a member is a link, a device, or leads outside.
    """
    if source.is_dir():
        found = walk(source)
    elif _is_zip(source):
        found = _zip_members(source)
    else:
        found = _tar_members(source)
    with _sound(source):
        for member in found:
            checked_parts(member.name)
            yield member


@contextmanager
def _sound(source: Path, member: str = "") -> Iterator[None]:
    """Tell in one line of what a damaged source makes its reader raise."""
    try:
        yield
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        what = refusal(
            f"{source}: {member}" if member else str(source), f"can't be read ({reason})"
        )
        raise InputError(f"{what}; type: a folder, a .tar, .tar.gz, .tar.xz or .zip") from error


def _is_zip(source: Path) -> bool:
    with _sound(source):
        return zipfile.is_zipfile(source)


def _read(source: Path, name: str, opened: Any) -> bytes:
    """Args: opened: returns the member as a file."""
    with _sound(source, name), opened() as file:
        return bounded(file, name)


class _StrictHeader(tarfile.TarInfo):
    """A header that says more than tarfile's.

    tarfile takes a damaged header, or none, for the end of the archive, and reads names of any
    length into memory.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf.count(b"\0") == tarfile.BLOCKSIZE:
                raise  # the end mark
            raise tarfile.ReadError("it is cut short, or damaged") from error
        if header.size < 0 or (header.type in _EXTENDED and header.size > _MOST_HEADER_BYTES):
            raise tarfile.ReadError("it has a header of impossible size")
        return header


def _tar_members(source: Path) -> Iterator[Member]:
    with tarfile.open(source, "r|*", tarinfo=_StrictHeader) as tar:
        for header in tar:
            tar.members.clear()  # type: ignore[attr-defined]  # it would remember all of them
            plain = header.isreg() and not header.issparse()
            if not (plain or header.isdir()):
                raise _no_file(source, header.name)
            opened = partial(_opened, tar, header)
            yield Member(
                header.name, partial(_read, source, header.name, opened) if plain else None
            )


def _opened(tar: tarfile.TarFile, header: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(header)
    assert file is not None
    return file


def _zip_members(source: Path) -> Iterator[Member]:
    with zipfile.ZipFile(source) as archive:
        for info in archive.infolist():
            mode = stat.S_IFMT(info.external_attr >> 16)
            if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _no_file(source, info.filename)
            read = partial(_read, source, info.filename, partial(archive.open, info))
            yield Member(info.filename, None if info.is_dir() else read)


def _no_file(source: Path, name: str) -> InputError:
    return InputError(
        refusal(f"{source}: {name}", "is a link or a device; type: pack the file it stands for")
    )
