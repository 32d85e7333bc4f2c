"""Images in class folders, as torchvision's ImageFolder lays them out: which, and in what order."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import numpy as np

from vigmpi.datasets.dataset import Labels
from vigmpi.errors import InputError
from vigmpi.phase import Phase

LAYOUT = "train/CLASS/IMAGE and test/CLASS/IMAGE"
MOST_BYTES = 2**26  # of one file
_MOST_DEPTH = 20
_MACOS = "__MACOSX"


class Member(NamedTuple):
    """A file or folder of a folder or an archive.

    Attributes:
        name: its path there.
        read: returns its bytes; None for a folder.
    """

    name: str
    read: Callable[[], bytes] | None

    @property
    def is_folder(self) -> bool:
        return self.read is None


@dataclass(frozen=True)
class Listing:
    """Attributes:
    class_names: names of the class folders, sorted; a label is an index into them.
    files: names as the members have them, sorted by the path from `train/` or `test/` on.
    """

    class_names: tuple[str, ...]
    files: dict[Phase, list[str]]
    labels: dict[Phase, Labels]


def walk(folder: Path, below: str = "") -> Iterator[Member]:
    """All that is in a folder.

    Raises:
        InputError: something there is neither a file nor a folder.
    """
    if below.count("/") > _MOST_DEPTH:
        raise InputError(refusal(below, f"is more than {_MOST_DEPTH} folders deep; type: {LAYOUT}"))
    for path in sorted(folder.iterdir()):
        name = f"{below}{path.name}"
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise InputError(refusal(name, "is a link or a device; type: rm it, or copy its file"))
        if path.is_dir():
            yield Member(name, None)
            yield from walk(path, f"{name}/")
        else:
            yield Member(name, partial(read_file, path, name))


def read_file(path: Path, name: str) -> bytes:
    """Args: name: for the message."""
    try:
        with path.open("rb") as file:
            return bounded(file, name)
    except OSError as error:
        raise InputError(
            refusal(name, f"can't be read ({error.strerror}); type: chmod +r it, or rm it")
        ) from error


def bounded(file: IO[bytes], name: str) -> bytes:
    """All bytes of a member.

    Raises:
        InputError: there are more than any image has.
    """
    content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise InputError(refusal(name, f"is larger than {MOST_BYTES >> 20} MiB; type: rm it"))
    return content


def refusal(name: str, reason: str) -> str:
    """One line about a member, whatever its name is made of."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)
    return f"{shown} {reason}"


def checked_parts(name: str) -> tuple[str, ...]:
    """The parts of a member's path.

    Raises:
        InputError: it leads out of its folder.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise InputError(refusal(name, "leads out of its folder; type: pack it without such paths"))
    return path.parts


def is_hidden(parts: Iterable[str]) -> bool:
    """Whether desktops left it (.DS_Store and the like)."""
    return any(part.startswith(".") or part == _MACOS for part in parts)


def list_images(members: Iterable[tuple[str, bool]], where: Path) -> Listing:
    """Find the images of each class; what is outside of `train/` and `test/` is passed over.

    All may lie in one folder more (`photos/train/CLASS/IMAGE`). Folders below a class folder
    count as part of it.

    Args:
        members: name, and whether it is a folder.
        where: for the message.

    Raises:
        InputError: not laid out so, a class without images, other classes in `test/`.
    """
    found: dict[Phase, dict[tuple[str, ...], str]] = {phase: {} for phase in Phase}
    folders: dict[Phase, set[str]] = {phase: set() for phase in Phase}
    tops = set()
    for name, is_folder in members:
        parts = checked_parts(name)
        depth = next((i for i, part in enumerate(parts[:2]) if part in set(Phase)), None)
        if depth is None or is_hidden(parts):
            continue
        tops.add(parts[:depth])
        phase, below = Phase(parts[depth]), parts[depth + 1 :]
        if below[:1] and (is_folder or len(below) > 1):
            folders[phase].add(below[0])
        if is_folder:
            continue
        if len(below) < 2:
            raise InputError(refusal(name, f"is in no class folder; type: {LAYOUT}"))
        if below in found[phase]:
            raise InputError(refusal(name, "is there twice; type: pack it once"))
        found[phase][below] = name
    _check_classes(found, folders, where)
    if len(tops) > 1:
        raise InputError(f"{where} has train/ or test/ in more than one folder; type: {LAYOUT}")
    classes = tuple(sorted(folders[Phase.TRAIN]))
    label = {name: i for i, name in enumerate(classes)}
    ordered = {phase: sorted(files) for phase, files in found.items()}
    return Listing(
        classes,
        {phase: [found[phase][below] for below in files] for phase, files in ordered.items()},
        {
            phase: np.array([label[below[0]] for below in files], dtype=np.int64)
            for phase, files in ordered.items()
        },
    )


def _check_classes(
    found: dict[Phase, dict[tuple[str, ...], str]], folders: dict[Phase, set[str]], where: Path
) -> None:
    for phase in Phase:
        if not folders[phase]:
            raise InputError(f"{where} has no {phase}/ with class folders in it; type: {LAYOUT}")
        filled = {below[0] for below in found[phase]}
        for name in sorted(folders[phase] - filled):
            raise InputError(refusal(f"{phase}/{name}/", "is a class without images; type: rm it"))
    for phase, other in ((Phase.TRAIN, Phase.TEST), (Phase.TEST, Phase.TRAIN)):
        for name in sorted(folders[phase] - folders[other]):
            raise InputError(
                refusal(
                    f"{phase}/{name}/", f"has no like in {other}/; type: the same classes in both"
                )
            )
