"""Images in folders, as a tree."""

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from vigmpi.datasets.file_tree import file_error, is_desktop_file
from vigmpi.datasets.image_names import SkippedFiles, is_image_name


class Folder:
    """Folder with the images and folders in it.

    Attributes:
        path: its path below the source, with a slash at the end; empty for the source itself.
        images: name of each image's member, by its file name.
    """

    def __init__(self, path: str = "") -> None:
        self.path = path
        self.folders: dict[str, Folder] = {}
        self.images: dict[str, str] = {}

    def folder(self, parts: Iterable[str]) -> "Folder":
        """Return the folder at a path below this one; it is made if necessary."""
        found = self
        for part in parts:
            found = found.folders.setdefault(part, Folder(f"{found.path}{part}/"))
        return found

    def paths(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield the path of each image below this folder, and the name of its member."""
        for file, name in self.images.items():
            yield (file,), name
        for part, folder in self.folders.items():
            for path, name in folder.paths():
                yield (part, *path), name

    def num_images(self) -> int:
        return len(self.images) + sum(each.num_images() for each in self.folders.values())


def image_tree(members: Iterable[tuple[str, bool]]) -> tuple[Folder, SkippedFiles]:
    """Return the tree of all images, and the files that are no images.

    Args:
        members: name of each member and whether it is a folder.

    Raises:
        InputError: if two members have the same path.
    """
    top, skipped = Folder(), SkippedFiles()
    for name, is_folder in members:
        parts = PurePosixPath(name).parts
        if is_desktop_file(parts):
            if not is_folder:
                skipped.add_desktop_file()
        elif is_folder:
            top.folder(parts)
        elif parts:
            _add_file(top.folder(parts[:-1]), parts[-1], name, skipped)
    return top, skipped


def _add_file(folder: Folder, file: str, name: str, skipped: SkippedFiles) -> None:
    if not is_image_name(file):
        skipped.add(file)
        return
    if file in folder.images:
        raise file_error("duplicate file", name, "Pack each file only once.")
    folder.images[file] = name
