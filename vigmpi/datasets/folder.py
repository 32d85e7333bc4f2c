from pathlib import Path

from vigmpi.datasets.class_folders import ClassFolders
from vigmpi.datasets.dataset import Dataset
from vigmpi.datasets.listing import LAYOUT
from vigmpi.datasets.prepared import PreparedFile
from vigmpi.errors import InputError, error_reason


def folder(data: Path, seed: int) -> Dataset:  # noqa: ARG001
    """Open a prepared file or class folders."""
    try:
        is_file = data.is_file()
    except OSError as error:
        raise InputError(
            f"cannot read the data set: {data} ({error_reason(error)}). Use --data-dir with a "
            f"folder in {LAYOUT} or a file written by vigmpi prepare."
        ) from error
    return PreparedFile(data, "folder") if is_file else ClassFolders(data, "folder")
