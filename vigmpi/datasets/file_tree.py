"""Files of a folder, and their errors."""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from vigmpi.errors import InputError, error_reason

MAX_FILE_BYTES = 2**26
_MAX_DEPTH = 20
_MAX_NAMED = 20


class Member(NamedTuple):
    """File or folder within a folder or an archive.

    Attributes:
        name: path within the folder or archive.
        read: function that returns the file's bytes; None for a folder.
    """

    name: str
    read: Callable[[], bytes] | None

    @property
    def is_folder(self) -> bool:
        return self.read is None


class UnreadableError(InputError):
    """A single image that cannot be read.

    Attributes:
        name: name of the image.
        reason: why it cannot be read.
    """

    def __init__(self, message: str, name: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.name, self.reason = name, reason

    @property
    def problem(self) -> str:
        return f"{printable(self.name)} ({self.reason})"


def walk(folder: Path) -> Iterator[Member]:
    """Yield all files and folders below a folder, sorted by name; links are followed.

    Raises:
        InputError: if a link leads to a folder above it, or the folders are nested too deeply.
        OSError: if a folder cannot be read.
    """
    yield from _walk(folder, "", ())


def _walk(folder: Path, prefix: str, above: tuple[os.stat_result, ...]) -> Iterator[Member]:
    status = folder.stat()
    if any(os.path.samestat(status, each) for each in above):
        raise file_error("link to a folder that contains it", prefix, "Remove the link.")
    if len(above) > _MAX_DEPTH:
        raise file_error(f"more than {_MAX_DEPTH} folders deep", prefix, "Use fewer folders.")
    with os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        name = f"{prefix}{entry.name}"
        if entry.is_dir():
            yield Member(name, None)
            yield from _walk(folder / entry.name, f"{name}/", (*above, status))
        else:
            yield Member(name, partial(read_file, folder / entry.name, name))


def open_file(path: Path, name: str) -> IO[bytes]:
    """Open a regular file, or raise UnreadableError with `name`."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would block
            raise unreadable(name, "not a regular file")
        return path.open("rb")
    except OSError as error:
        raise unreadable(name, error_reason(error)) from error


def read_file(path: Path, name: str) -> bytes:
    """Return the bytes of a file, or raise UnreadableError with `name`."""
    try:
        with open_file(path, name) as file:
            return read_bounded(file, name)
    except OSError as error:
        raise unreadable(name, error_reason(error)) from error


def read_bounded(file: IO[bytes], name: str) -> bytes:
    """Return all bytes of an open file.

    Raises:
        UnreadableError: if the file is larger than an image can be.
    """
    content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise unreadable(name, f"larger than {MAX_FILE_BYTES >> 20} MiB")
    return content


def checked_parts(name: str) -> tuple[str, ...]:
    """Return the parts of a member's path.

    Raises:
        InputError: if the path leads out of its folder.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise file_error("path leads out of its folder", name, "Pack it with a relative path.")
    return path.parts


def printable(name: str) -> str:
    """Return a name with its unprintable characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def unreadable(name: str, reason: str) -> UnreadableError:
    """Return the error that reports an image that cannot be read."""
    message = f"cannot read image: {printable(name)} ({reason}). Replace or remove the file."
    return UnreadableError(message, name, reason)


def file_error(problem: str, name: str, remedy: str, reason: str | None = None) -> InputError:
    """Return the error that reports a problem of a single file or member in one line."""
    detail = f" ({reason})" if reason else ""
    return InputError(f"{problem}: {printable(name)}{detail}. {remedy}")


def listed(texts: Sequence[str]) -> str:
    """Return texts separated by commas; of many, the first ones and the number of the others."""
    more = len(texts) - _MAX_NAMED
    return ", ".join(texts[:_MAX_NAMED]) + (f" and {more:,} more" if more > 0 else "")
