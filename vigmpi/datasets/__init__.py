"""Labelled images and the order in which a run reads them: NumPy only, no MPI."""

from collections.abc import Callable
from pathlib import Path

from vigmpi.datasets.cifar10 import cifar10, has_cifar10
from vigmpi.datasets.class_folders import ClassFolders
from vigmpi.datasets.dataset import Dataset
from vigmpi.datasets.digits import Digits
from vigmpi.datasets.prepared import PreparedFile
from vigmpi.datasets.synthetic import Synthetic

__all__ = ["DATASETS", "Dataset", "default_dataset"]


def _folder(data: Path, seed: int) -> Dataset:  # noqa: ARG001
    """Open a prepared file or class folders."""
    return PreparedFile(data, "folder") if data.is_file() else ClassFolders(data, "folder")


# Constructors by name; their arguments are the data folder and the seed.
DATASETS: dict[str, Callable[[Path, int], Dataset]] = {
    "cifar10": cifar10,
    "folder": _folder,
    "digits": Digits,
    "synthetic": Synthetic,
}


def default_dataset(data_dir: Path) -> str:
    """Return "cifar10" if it is in the data folder, else "digits", which is always available."""
    return "cifar10" if has_cifar10(data_dir) else "digits"
