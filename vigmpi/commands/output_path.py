from pathlib import Path


def exists_and_fits(path: Path) -> tuple[bool, bool]:
    """Return whether a path exists, and whether a file can be there.

    The latter is false if its folder is missing, if it is a folder itself, or if the system does
    not tell.
    """
    try:
        return path.exists(), path.parent.is_dir() and not path.is_dir()
    except OSError:
        return False, False
