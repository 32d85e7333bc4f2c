"""Recognition of image files by their names, and the count of the others."""

from collections import Counter
from pathlib import PurePosixPath

from PIL import Image

from vigmpi.datasets.file_tree import printable

Image.init()
# EPS is excluded because Ghostscript would execute it as a program; of the others Pillow reads no
# pixels, or not without a program of the system. Pillow tries the formats in this order: a header
# of the first one is read in two thirds of the time.
_COMMON, _EXCLUDED = ("JPEG", "PNG"), {"EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF"}
FORMATS = (*_COMMON, *sorted(set(Image.OPEN) - {*_COMMON, *_EXCLUDED}))
_SUFFIXES = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
_MAX_KINDS = 5


class SkippedFiles:
    """Count of the files that were skipped because they are no images, by what they are.

    Files in a desktop's folder count only if it is in an archive: others are not entered.
    """

    def __init__(self) -> None:
        self._kinds: Counter[str] = Counter()

    def add_desktop_file(self) -> None:
        self._kinds["hidden or desktop"] += 1

    def add(self, name: str) -> None:
        """Count a file by its suffix."""
        suffix = printable(PurePosixPath(name).suffix.lower())
        self._kinds[f"*{suffix}" if suffix else "without a suffix"] += 1

    def __str__(self) -> str:
        """Return numbers and kinds, such as "2 *.txt, 1 hidden or desktop"; "" for none."""
        kinds = self._kinds.most_common()
        texts = [f"{number:,} {kind}" for kind, number in kinds[:_MAX_KINDS]]
        if others := sum(number for _, number in kinds[_MAX_KINDS:]):
            texts.append(f"{others:,} others")
        return ", ".join(texts)


def is_image_name(name: str) -> bool:
    """Return whether Pillow reads files with this suffix."""
    return PurePosixPath(name).suffix.lower() in _SUFFIXES
