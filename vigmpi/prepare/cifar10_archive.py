"""CIFAR-10 as published (Krizhevsky, 2009), in its Python or its binary version."""

import hashlib
import io
import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vigmpi.datasets.dataset import Labels, Pixels
from vigmpi.datasets.decoding import resized
from vigmpi.datasets.file_tree import file_error
from vigmpi.datasets.torchvision_import import torchvision_datasets
from vigmpi.phase import Phase
from vigmpi.prepare.members import members
from vigmpi.prepare.source import ImageBatch, Source

NUM_IMAGES = 10_000  # in each of the six files ("batches")
_SIDE, _NUM_CLASSES = 32, 10
_META = "batches.meta"
_REMEDY = "Use the archive as published."
_BATCHES = {f"data_batch_{i + 1}": (Phase.TRAIN, i) for i in range(5)}
_BATCHES["test_batch"] = Phase.TEST, 0

# Everything that the pickles of the Python version call, under the names of old and new NumPy.
_reconstruct: Any = np.empty(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): str.encode,
}
_BROKEN_PICKLE = (
    pickle.UnpicklingError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    EOFError,
    OverflowError,
    RecursionError,
    MemoryError,
)


class Cifar10Archive(Source):
    """Archive or folder of CIFAR-10; images keep their published order."""

    def __init__(self, path: Path, image_size: int) -> None:
        super().__init__()
        self._path = path
        self._side = image_size
        self.num_images = {Phase.TRAIN: 5 * NUM_IMAGES, Phase.TEST: NUM_IMAGES}

    def read(self) -> Iterator[ImageBatch]:
        missing = {*_BATCHES, _META}
        for member in members(self._path):
            name, binary = _stem(member.name)
            if member.read is None or name not in missing:
                continue
            missing.remove(name)
            content = member.read()
            try:
                if name == _META:
                    self.class_names = (_binary_names if binary else _python_names)(content)
                else:
                    read = _binary_batch if binary else _python_batch
                    yield self._batch(name, *read(name, content))
            except ValueError as error:
                problem, reason = "not a file of CIFAR-10", str(error)
                raise file_error(problem, member.name, _REMEDY, reason) from error
        self.sizes.add((_SIDE, _SIDE))
        if missing:
            reason = f"{min(missing)} is missing"
            raise file_error("incomplete CIFAR-10", str(self._path), _REMEDY, reason)

    def _batch(self, name: str, labels: Labels, pixels: Pixels) -> ImageBatch:
        if len(labels) != NUM_IMAGES or labels.min() < 0 or labels.max() >= _NUM_CLASSES:
            raise ValueError(f"not {NUM_IMAGES} labels from 0 to {_NUM_CLASSES - 1}")
        if self._side != _SIDE:
            pixels = resized(pixels, (self._side, self._side))
        phase, batch = _BATCHES[name]
        return ImageBatch(phase, batch * NUM_IMAGES + np.arange(NUM_IMAGES), labels, pixels)


def is_cifar10_archive(names: Iterable[str]) -> bool:
    return any(_stem(name)[0] == "test_batch" for name in names)


def _stem(name: str) -> tuple[str, bool]:
    """Return a member's name without folder and suffix, and whether it has the binary format."""
    base = PurePosixPath(name).name
    stem = base.removesuffix(".bin").removesuffix(".txt")
    return stem, stem != base


def _binary_batch(name: str, content: bytes) -> tuple[Labels, Pixels]:  # noqa: ARG001
    """Decode a batch that stores each image as one byte of label followed by its pixels."""
    size = NUM_IMAGES * (1 + 3 * _SIDE * _SIDE)
    if len(content) != size:
        raise ValueError(f"{len(content)} bytes instead of {size}")
    rows = np.frombuffer(content, np.uint8).reshape(NUM_IMAGES, -1)
    return rows[:, 0].astype(np.int64), rows[:, 1:].reshape(-1, 3, _SIDE, _SIDE)


def _binary_names(content: bytes) -> tuple[str, ...]:
    return _checked_names(content.decode("ascii").split())


def _python_batch(name: str, content: bytes) -> tuple[Labels, Pixels]:
    batch = _unpickled(name, content)
    pixels, labels = batch.get("data"), np.asarray(batch.get("labels"))
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        raise ValueError("data is not an array of bytes")
    if pixels.shape != (NUM_IMAGES, 3 * _SIDE * _SIDE) or labels.dtype.kind != "i":
        raise ValueError(f"data has shape {pixels.shape}, labels have type {labels.dtype}")
    return labels.astype(np.int64), pixels.reshape(-1, 3, _SIDE, _SIDE)


def _python_names(content: bytes) -> tuple[str, ...]:
    return _checked_names(_unpickled(_META, content).get("label_names"))


def _checked_names(names: Any) -> tuple[str, ...]:
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ValueError("class names are not strings")
    if len(set(names)) != _NUM_CLASSES:
        raise ValueError(f"{len(set(names))} class names instead of {_NUM_CLASSES}")
    return tuple(names)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"pickle calls {module}.{name}") from None


def _unpickled(name: str, content: bytes) -> dict[str, Any]:
    """Check the published digest, then unpickle arrays and plain values only.

    The published digest is MD5, which detects damage but not an attack.
    """
    cifar10 = torchvision_datasets().CIFAR10
    digests = dict([*cifar10.train_list, *cifar10.test_list, (_META, cifar10.meta["md5"])])
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != digests[name]:
        raise ValueError("MD5 digest is not the published one")
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    except _BROKEN_PICKLE as error:
        raise ValueError(str(error) or type(error).__name__) from error
    if not isinstance(batch, dict):
        raise ValueError("pickle is not a dictionary")
    return batch
