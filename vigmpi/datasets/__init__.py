"""Labelled images, and the order in which a run sees them: numpy, no MPI."""

from pathlib import Path

from vigmpi.datasets.cifar10 import Cifar10
from vigmpi.datasets.dataset import Dataset
from vigmpi.datasets.digits import Digits
from vigmpi.datasets.synthetic import Synthetic

__all__ = ["DATASETS", "Cifar10", "Dataset", "Digits", "Synthetic", "default_dataset"]

DATASETS: dict[str, type[Dataset]] = {d.name: d for d in (Cifar10, Digits, Synthetic)}


def default_dataset(data_dir: Path) -> str:
    """CIFAR-10 if it is in the data folder, else the digits, which are always there."""
    return (Cifar10 if Cifar10.found_in(data_dir) else Digits).name
