import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from vigmpi.datasets.file_tree import walk
from vigmpi.datasets.image_names import is_desktop_file, is_image_name
from vigmpi.errors import InputError, error_reason


def image_paths(given: Iterable[Path]) -> list[Path]:
    """Return image files: those given, and those in folders or that match patterns, sorted.

    Raises:
        InputError: if there is no such file, or no image in a folder or of a pattern.
    """
    return [path for each in given for path in _expanded(each)]


def _expanded(given: Path) -> list[Path]:
    if given.is_dir():
        return _checked(_images_of(given), f"{given}/")
    if given.exists():
        return [given]
    if not glob.has_magic(str(given)):
        raise InputError(
            f"no such file: {given}. Use the path of an image file, a folder of images or a "
            f"quoted pattern."
        )
    # Path.glob takes no absolute patterns.
    matches = map(Path, glob.glob(str(given), recursive=True))  # noqa: PTH207
    files = {match for match in matches if not match.is_dir() and is_image_name(match.name)}
    return _checked(sorted(files), str(given))


def _images_of(folder: Path) -> Iterator[Path]:
    try:
        for member in walk(folder):
            parts = PurePosixPath(member.name).parts
            if member.read and is_image_name(member.name) and not is_desktop_file(parts):
                yield folder / member.name
    except OSError as error:
        path = os.fsdecode(error.filename or folder)
        raise InputError(
            f"cannot read the folder: {path} ({error_reason(error)}). Make it readable."
        ) from error


def _checked(paths: Iterable[Path], given: str) -> list[Path]:
    if found := list(paths):
        return found
    raise InputError(f"no images: {given}. Use a folder or a pattern of files that Pillow reads.")
