"""Images in folders, as a tree."""

from collections.abc import Iterable, Iterator

from vigmpi.datasets.file_tree import checked_parts, file_error
from vigmpi.datasets.image_names import SkippedFiles, is_desktop_file


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
        parts = checked_parts(name)
        hidden = is_desktop_file(parts)
        folder = Folder() if hidden else top.folder(parts if is_folder else parts[:-1])
        if is_folder or skipped.skips(parts):
            continue
        images = folder.images
        if parts[-1] in images:
            raise file_error("duplicate file", name, "Pack each file only once.")
        images[parts[-1]] = name
    return top, skipped
