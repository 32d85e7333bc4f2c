"""Folder in which numba caches the compiled kernels."""

import os
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

_VARIABLE = "NUMBA_CACHE_DIR"
_CONTENT = bytes(4096)


def choose_kernel_cache(environ: MutableMapping[str, str]) -> str:
    """Choose the folder if the usual one cannot be written, and return a line that says so.

    The usual one is that which the user named, or one beside the kernels. Others are tried in the
    user's cache and in the folder for temporary files; without any, nothing is cached.
    """
    named = environ.get(_VARIABLE)
    usual = Path(named) if named else Path(__file__).parent / "kernels" / "__pycache__"
    if _is_writable(usual, mode=0o777):
        return ""
    own = Path(environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME") or "/") / ".cache")
    temporary = Path(tempfile.gettempdir()) / f"vigmpi-{os.getuid()}"
    for folder in (own / "vigmpi", temporary):
        if _is_writable(folder) and _is_private(folder):
            environ[_VARIABLE] = str(folder)
            return f"note: compiled kernels are kept in {folder}, because {usual} is not writable"
    environ.pop(_VARIABLE, None)
    return f"note: kernels are compiled at each start, because {usual} is not writable"


def _is_writable(folder: Path, mode: int = 0o700) -> bool:
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            return file.write(_CONTENT) == len(_CONTENT)  # fails if a quota is exhausted
    except OSError:
        return False


def _is_private(folder: Path) -> bool:
    """Return whether nobody else can have put code into a folder."""
    status = folder.lstat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022 and not folder.is_symlink()
