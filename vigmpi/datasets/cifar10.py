import pickle
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from vigmpi.datasets.dataset import Dataset, InMemory, Labels, Pixels, Progress
from vigmpi.datasets.prepared import PreparedFile
from vigmpi.datasets.torchvision_import import torchvision_datasets
from vigmpi.errors import InputError, error_reason
from vigmpi.phase import Phase

_FOLDER, _ARCHIVE, _PREPARED = "cifar-10-batches-py", "cifar-10-python.tar.gz", "cifar10.h5"


def cifar10(data_dir: Path, seed: int) -> Dataset:
    """Open the prepared file if it exists, else the original archive."""
    prepared = data_dir / _PREPARED
    with suppress(OSError):  # the other one says what is wrong
        if prepared.exists():
            return PreparedFile(prepared, "cifar10")
    return Cifar10(data_dir, seed)


def has_cifar10(data_dir: Path) -> bool:
    """Return whether a folder holds CIFAR-10, or raise InputError if it cannot be read."""
    with _readable(data_dir):
        return (
            (data_dir / _PREPARED).is_file()
            or (data_dir / _FOLDER).is_dir()
            or (data_dir / _ARCHIVE).is_file()
        )


@contextmanager
def _readable(data_dir: Path) -> Iterator[None]:
    """Raise InputError if a folder cannot be read."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot read the data folder: {data_dir} ({error_reason(error)}). Use --data-dir with "
            f"another folder, or --dataset digits."
        ) from error


class Cifar10(InMemory):
    """CIFAR-10 as published (Krizhevsky, 2009), read by torchvision.

    torchvision checks the published digest of every file before it unpickles any of them.
    """

    name = "cifar10"
    class_names = (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )
    num_images = {Phase.TRAIN: 50_000, Phase.TEST: 10_000}  # noqa: RUF012

    def __init__(self, data_dir: Path, seed: int) -> None:
        super().__init__(data_dir, seed)
        self.details = f"CIFAR-10, original archive in {data_dir}/"

    def prepare(self, *, download: bool, progress: Progress) -> None:  # noqa: ARG002
        archive = self._data_dir / _ARCHIVE
        with _readable(self._data_dir):
            unpacked, packed = (self._data_dir / _FOLDER).is_dir(), archive.is_file()
        if unpacked and not download:
            return  # `load` verifies the digests
        if not (packed or download):
            raise InputError(
                f"CIFAR-10 not found: no {_PREPARED}, {_ARCHIVE} or {_FOLDER}/ in "
                f"{self._data_dir}/. Use --download, --data-dir FOLDER or --dataset digits."
            )
        cifar10 = torchvision_datasets().CIFAR10
        check = torchvision_datasets().utils.check_integrity
        if not (download or check(archive, cifar10.tgz_md5)):
            raise InputError(
                f"damaged archive: {archive} does not have the MD5 digest of CIFAR-10. "
                f"Use --download to fetch it again."
            )
        try:  # torchvision downloads the archive only if no intact one exists
            cifar10(self._data_dir, download=True)
        except (OSError, RuntimeError, tarfile.TarError) as error:
            raise InputError(
                f"cannot download or unpack CIFAR-10: {self._data_dir}/ ({_line(error)}). "
                f"Copy {_ARCHIVE} there by hand or use --dataset digits."
            ) from error

    def _read(self, phase: Phase) -> tuple[Pixels, Labels]:
        try:
            data: Any = torchvision_datasets().CIFAR10(self._data_dir, train=phase is Phase.TRAIN)
        except (OSError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
            raise InputError(
                f"cannot read CIFAR-10: {self._data_dir / _FOLDER} ({_line(error)}). "
                f"Remove it and use --download, or use --dataset digits."
            ) from error
        pixels = np.ascontiguousarray(data.data.transpose(0, 3, 1, 2))
        return pixels, np.array(data.targets, dtype=np.int64)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()).removesuffix(" You can use download=True to download it")
