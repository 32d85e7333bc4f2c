"""Which files are images, judged by their names."""

from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

from PIL import Image

Image.init()
# EPS is excluded because Ghostscript would execute it as a program; of the others Pillow reads no
# pixels, or not without a program of the system.
FORMATS = tuple(sorted(set(Image.OPEN) - {"EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF"}))
_SUFFIXES = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
# Of the desktops and file managers of Windows, macOS and Synology; names with a dot are all hidden.
_DESKTOP = {"thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "__macosx", "@eadir"}
_MAX_KINDS = 5


class SkippedFiles:
    """Count of the files that were skipped because they are no images, by what they are."""

    def __init__(self) -> None:
        self._kinds: Counter[str] = Counter()

    def skips(self, parts: Iterable[str]) -> bool:
        """Return whether the file with this path is no image, and count it if so."""
        parts = tuple(parts)
        suffix = PurePosixPath(parts[-1]).suffix
        if is_desktop_file(parts):
            self._kinds["hidden or desktop"] += 1
        elif not is_image_name(parts[-1]):
            self._kinds[f"*{suffix}" if suffix else "without a suffix"] += 1
        else:
            return False
        return True

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


def is_desktop_file(parts: Iterable[str]) -> bool:
    """Return whether a path belongs to what desktops leave in folders, such as .DS_Store."""
    return any(part.startswith(".") or part.lower() in _DESKTOP for part in parts)
