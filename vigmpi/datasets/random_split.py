import hashlib
from collections import defaultdict
from collections.abc import Iterable

from vigmpi.datasets.file_tree import listed, printable
from vigmpi.errors import InputError

Parts = tuple[str, ...]


def choose_test_images(paths: Iterable[Parts], share: float) -> set[Parts]:
    """Choose the images of each class to test on, by a hash of their paths.

    The choice depends on nothing else, so that no run tests on images that another one with a
    different seed has trained on, and an archive is split like its folder. Further images change
    the choice of few others.

    Args:
        paths: path of each image; the first part is its class.
        share: fraction of each class to choose; at least one image is chosen, and one is left.

    Raises:
        InputError: if a class has a single image.
    """
    classes: dict[str, list[Parts]] = defaultdict(list)
    for path in paths:
        classes[path[0]].append(path)
    if single := [f"{printable(name)}/" for name in sorted(classes) if len(classes[name]) == 1]:
        raise InputError(
            f"class with a single image: {listed(single)}. Add images, or remove the folder."
        )
    chosen = set()
    for images in classes.values():
        number = min(max(1, round(share * len(images))), len(images) - 1)
        chosen.update(sorted(images, key=_hash)[:number])
    return chosen


def _hash(path: Parts) -> bytes:
    return hashlib.sha256("/".join(path).encode(errors="surrogatepass")).digest()
