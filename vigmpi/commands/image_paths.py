import glob
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from vigmpi.datasets.file_tree import is_desktop_file, walk
from vigmpi.datasets.image_names import is_image_name
from vigmpi.errors import InputError, error_reason


def image_paths(given: Iterable[Path]) -> list[Path]:
    """Return image files: those given, and those in folders or that match patterns, sorted.

    Raises:
        InputError: if a file or folder cannot be read, or a folder or a pattern holds no image.
    """
    return [path for each in given for path in _expanded(each)]


def _expanded(given: Path) -> list[Path]:
    try:
        is_folder = stat.S_ISDIR(given.stat().st_mode)
    except OSError as error:
        if glob.has_magic(str(given)):
            return _checked(sorted(_matches(given)), str(given))
        raise InputError(
            f"cannot read image: {given} ({error_reason(error)}). Use the path of an image file, a "
            f"folder of images or a quoted pattern."
        ) from error
    return _checked(list(_images_of(given)), f"{given}/") if is_folder else [given]


def _matches(pattern: Path) -> set[Path]:
    """Return the images that match a pattern, and those in folders that match."""
    number = next(i for i, part in enumerate(pattern.parts) if glob.has_magic(part))
    top, rest = Path(*pattern.parts[:number]), pattern.parts[number:]
    found: set[Path] = set()
    try:
        if any("**" in part and part != "**" for part in rest):
            raise ValueError("** is not a whole part of it")
        for path in top.glob("/".join(rest)):
            parts = path.relative_to(top).parts
            if is_desktop_file(parts):
                continue
            if path.is_dir():
                found.update(_images_of(path))
            elif is_image_name(path.name):
                found.add(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot use the pattern: {pattern} ({error_reason(error)}). Use a folder, or a "
            f"pattern such as 'photos/**/*.jpg'."
        ) from error
    return found


def _images_of(folder: Path) -> Iterator[Path]:
    try:
        for member in walk(folder):
            parts = PurePath(member.name).parts
            if member.read and is_image_name(parts[-1]) and not is_desktop_file(parts):
                yield folder / member.name
    except OSError as error:
        raise InputError(
            f"cannot read folder: {folder} ({error_reason(error)}). Make it readable."
        ) from error


def _checked(paths: list[Path], given: str) -> list[Path]:
    if paths:
        return paths
    raise InputError(f"no images: {given}. Use a folder or a pattern of files that Pillow reads.")
