"""Listing of images in class folders, laid out as for torchvision's ImageFolder."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import numpy as np

from vigmpi.datasets.dataset import Labels
from vigmpi.errors import InputError
from vigmpi.phase import Phase

LAYOUT = "the layout train/CLASS/IMAGE and test/CLASS/IMAGE"
MAX_FILE_BYTES = 2**26
_MAX_DEPTH = 20
_MACOS = "__MACOSX"


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


@dataclass(frozen=True)
class Listing:
    """Image files of both phases.

    Attributes:
        class_names: sorted names of the class folders; a label is an index into them.
        files: names of the members, sorted by their path below `train/` or `test/`.
        labels: class of each file, [images].
    """

    class_names: tuple[str, ...]
    files: dict[Phase, list[str]]
    labels: dict[Phase, Labels]


def walk(folder: Path, prefix: str = "") -> Iterator[Member]:
    """Yield all files and folders below a folder.

    Raises:
        InputError: if there is a link or a device, or the folders are nested too deeply.
    """
    if prefix.count("/") > _MAX_DEPTH:
        raise file_error(f"more than {_MAX_DEPTH} folders deep", prefix, f"Use {LAYOUT}.")
    for path in sorted(folder.iterdir()):
        name = f"{prefix}{path.name}"
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise file_error("link or device", name, "Remove it or replace it with a regular file.")
        if path.is_dir():
            yield Member(name, None)
            yield from walk(path, f"{name}/")
        else:
            yield Member(name, partial(read_file, path, name))


def read_file(path: Path, name: str) -> bytes:
    """Return the bytes of a file, or raise InputError with `name` if it cannot be read."""
    try:
        with path.open("rb") as file:
            return read_bounded(file, name)
    except OSError as error:
        remedy = "Make it readable with chmod +r or remove it."
        raise file_error("cannot read file", name, remedy, error.strerror) from error


def read_bounded(file: IO[bytes], name: str) -> bytes:
    """Return all bytes of an open file.

    Raises:
        InputError: if the file is larger than an image can be.
    """
    content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise file_error(f"file larger than {MAX_FILE_BYTES >> 20} MiB", name, "Remove it.")
    return content


def printable(name: str) -> str:
    """Return a name with its unprintable characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def file_error(problem: str, name: str, remedy: str, reason: str | None = None) -> InputError:
    """Return the error that reports a problem of a single file or member in one line."""
    detail = f" ({reason})" if reason else ""
    return InputError(f"{problem}: {printable(name)}{detail}. {remedy}")


def checked_parts(name: str) -> tuple[str, ...]:
    """Return the parts of a member's path.

    Raises:
        InputError: if the path leads out of its folder.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise file_error("path leads out of its folder", name, "Pack it with a relative path.")
    return path.parts


def is_hidden(parts: Iterable[str]) -> bool:
    """Return whether a path belongs to a desktop's hidden files, such as .DS_Store."""
    return any(part.startswith(".") or part == _MACOS for part in parts)


def list_images(members: Iterable[tuple[str, bool]], source: Path) -> Listing:
    """List the images of each class, ignoring files outside `train/` and `test/`.

    Both may be in one enclosing folder (`photos/train/CLASS/IMAGE`). Folders within a class folder
    belong to its class.

    Args:
        members: name of each member and whether it is a folder.
        source: folder or archive, for an error message.

    Raises:
        InputError: if the layout differs, a class has no images or the phases differ in classes.
    """
    files: dict[Phase, dict[tuple[str, ...], str]] = {phase: {} for phase in Phase}
    classes: dict[Phase, set[str]] = {phase: set() for phase in Phase}
    roots = set()
    for name, is_folder in members:
        parts = checked_parts(name)
        depth = next((i for i, part in enumerate(parts[:2]) if part in set(Phase)), None)
        if depth is None or is_hidden(parts):
            continue
        roots.add(parts[:depth])
        phase, path = Phase(parts[depth]), parts[depth + 1 :]
        if path[:1] and (is_folder or len(path) > 1):
            classes[phase].add(path[0])
        if is_folder:
            continue
        if len(path) < 2:
            raise file_error("not in a class folder", name, f"Use {LAYOUT}.")
        if path in files[phase]:
            raise file_error("duplicate file", name, "Pack each file only once.")
        files[phase][path] = name
    _check_classes(files, classes, source)
    if len(roots) > 1:
        raise InputError(f"train/ or test/ in more than one folder: {source}. Use {LAYOUT}.")
    class_names = tuple(sorted(classes[Phase.TRAIN]))
    label = {name: i for i, name in enumerate(class_names)}
    paths = {phase: sorted(files[phase]) for phase in Phase}
    return Listing(
        class_names,
        {phase: [files[phase][path] for path in paths[phase]] for phase in Phase},
        {phase: np.array([label[p[0]] for p in paths[phase]], dtype=np.int64) for phase in Phase},
    )


def _check_classes(
    files: dict[Phase, dict[tuple[str, ...], str]], classes: dict[Phase, set[str]], source: Path
) -> None:
    for phase in Phase:
        if not classes[phase]:
            raise InputError(f"no {phase}/ with class folders: {source}. Use {LAYOUT}.")
        for name in sorted(classes[phase] - {path[0] for path in files[phase]}):
            remedy = "Remove the folder or add images."
            raise file_error("class without images", f"{phase}/{name}/", remedy)
    for phase, other in ((Phase.TRAIN, Phase.TEST), (Phase.TEST, Phase.TRAIN)):
        for name in sorted(classes[phase] - classes[other]):
            remedy = "Use the same classes in train/ and test/."
            raise file_error(f"class not in {other}/", f"{phase}/{name}/", remedy)
