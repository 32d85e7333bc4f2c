"""Labelled images and the order in which a run reads them: NumPy only, no MPI."""

from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vigmpi.datasets.dataset import Dataset

# Function from the data folder and the seed to the data set. It is named, not imported: the
# command line needs the names, and the data sets take long to import.
DATASETS: dict[str, str] = {
    "cifar10": "vigmpi.datasets.cifar10:cifar10",
    "folder": "vigmpi.datasets.folder:folder",
    "digits": "vigmpi.datasets.digits:Digits",
    "synthetic": "vigmpi.datasets.synthetic:Synthetic",
}


def open_dataset(
    name: str,
    data_dir: Path,
    seed: int,
    image_size: tuple[int, int] | None = None,
    test_share: float = 0.0,
) -> "Dataset":
    """Return the data set that `DATASETS` has under this name.

    Args:
        image_size: height and width of its images; None for the data set's own.
        test_share: fraction of each class's images to test on; 0 for its own test images.

    Raises:
        InputError: if its images have a fixed size or it has test images, and others are asked for.
    """
    dataset: Dataset = resolve_name(DATASETS[name])(data_dir, seed)
    if image_size:
        dataset.set_image_size(image_size)
    if test_share:
        dataset.set_test_share(test_share)
    return dataset


def default_dataset(data_dir: Path) -> str:
    """Return "cifar10" if it is in the data folder, else "digits", which is always available."""
    return "cifar10" if resolve_name("vigmpi.datasets.cifar10:has_cifar10")(data_dir) else "digits"
