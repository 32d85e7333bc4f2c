from pathlib import Path

from vigmpi.datasets.class_folders import ClassFolders
from vigmpi.datasets.dataset import Dataset
from vigmpi.datasets.prepared import PreparedFile


def folder(data: Path, seed: int) -> Dataset:  # noqa: ARG001
    """Open a prepared file or class folders."""
    return PreparedFile(data, "folder") if data.is_file() else ClassFolders(data, "folder")
