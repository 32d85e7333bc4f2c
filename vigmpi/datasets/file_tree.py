"""Files of a folder, and their errors."""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from vigmpi.errors import InputError, error_reason

MAX_FILE_BYTES = 2**26
_MAX_DEPTH = 20
_MAX_NAMED = 20
_MAX_NAME = 200  # characters of a nested name that are shown
# Of the desktops and file managers of Windows, macOS and Synology; names with a dot are all hidden.
_DESKTOP = {"thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "__macosx", "@eadir"}


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
    """Yield all files and folders below a folder, sorted by name.

    Links are followed; folders of desktops are not entered.

    Raises:
        InputError: if a folder below cannot be read, a link leads to a folder above it, or folders
            are nested too deeply.
        OSError: if the folder itself cannot be read.
    """
    yield from _walk(folder, "", ())


def _walk(folder: Path, prefix: str, above: tuple[os.stat_result, ...]) -> Iterator[Member]:
    try:
        status = folder.stat()
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        if not above:
            raise
        remedy = "Make it readable or remove it."
        raise file_error("cannot read folder", prefix, remedy, error_reason(error)) from error
    if any(os.path.samestat(status, each) for each in above):
        raise file_error("link to a folder that contains it", prefix, "Remove the link.")
    _check_depth(len(above), prefix)
    for entry in entries:
        name = f"{prefix}{entry.name}"
        if _is_folder(entry):
            yield Member(name, None)
            if not is_desktop_file([entry.name]):
                yield from _walk(folder / entry.name, f"{name}/", (*above, status))
        else:
            yield Member(name, partial(read_file, folder / entry.name, name))


def _is_folder(entry: os.DirEntry) -> bool:
    """Return whether it is a folder; a link that cannot be followed is an unreadable file."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _check_depth(depth: int, name: str) -> None:
    if depth > _MAX_DEPTH:
        shown = name[:_MAX_NAME] + "..." * (len(name) > _MAX_NAME)
        raise file_error(f"more than {_MAX_DEPTH} folders deep", shown, "Use fewer folders.")


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
        InputError: if the path leads out of its folder or is nested too deeply.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise file_error("path leads out of its folder", name, "Pack it with a relative path.")
    _check_depth(len(path.parts) - 1, name)
    return path.parts


def is_desktop_file(parts: Iterable[str]) -> bool:
    """Return whether a path belongs to what desktops leave in folders, such as .DS_Store."""
    parts = tuple(parts)
    hidden = (part.startswith(".") and part != ".." for part in parts)
    return any(hidden) or any(part.lower() in _DESKTOP for part in parts)


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
