"""The original archive of CIFAR-10 (Krizhevsky, 2009), in its python and its binary version."""

import hashlib
import io
import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vigmpi.datasets.dataset import Labels, Pixels
from vigmpi.datasets.decoding import resized
from vigmpi.datasets.listing import refusal
from vigmpi.datasets.torchvision_import import torchvision_datasets
from vigmpi.errors import InputError
from vigmpi.phase import Phase
from vigmpi.prepare.members import members
from vigmpi.prepare.source import ImageBatch, Source

IMAGES = 10_000  # of a batch, which is a file
_SIDE, _CLASSES = 32, 10
_META = "batches.meta"
_PLACES = {f"data_batch_{i + 1}": (Phase.TRAIN, i) for i in range(5)}
_PLACES["test_batch"] = Phase.TEST, 0

# All that the python version's pickles are made of, by the names that old and new numpy give it.
_reconstruct: Any = np.empty(0).__reduce__()[0]
_NAMES: dict[tuple[str, str], Callable[..., Any]] = {
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
    """Batches in their published order; read whole, since that is how they are packed."""

    def __init__(self, path: Path, image_size: int) -> None:
        self._path = path
        self._side = image_size
        self.samples = {Phase.TRAIN: 5 * IMAGES, Phase.TEST: IMAGES}

    def read(self) -> Iterator[ImageBatch]:
        missing = {*_PLACES, _META}
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
                    yield self._placed(name, *read(name, content))
            except ValueError as error:
                reason = f"is not that of CIFAR-10 ({error}); type: the archive as published"
                raise InputError(refusal(member.name, reason)) from error
        if missing:
            raise InputError(
                f"{self._path} has not all of CIFAR-10, {min(missing)} is missing; "
                f"type: the archive as published"
            )

    def _placed(self, name: str, labels: Labels, pixels: Pixels) -> ImageBatch:
        if len(labels) != IMAGES or labels.min() < 0 or labels.max() >= _CLASSES:
            raise ValueError(f"not {IMAGES} labels from 0 to {_CLASSES - 1}")
        if self._side != _SIDE:
            pixels = resized(pixels, (self._side, self._side))
        phase, batch = _PLACES[name]
        return ImageBatch(phase, batch * IMAGES + np.arange(IMAGES), labels, pixels)


def is_cifar10_archive(names: Iterable[str]) -> bool:
    return any(_stem(name)[0] == "test_batch" for name in names)


def _stem(name: str) -> tuple[str, bool]:
    """A member's name without its folder and suffix, and whether it is of the binary version."""
    base = PurePosixPath(name).name
    stem = base.removesuffix(".bin").removesuffix(".txt")
    return stem, stem != base


def _binary_batch(name: str, content: bytes) -> tuple[Labels, Pixels]:  # noqa: ARG001
    """A byte for the label, then the pixels, image after image."""
    size = IMAGES * (1 + 3 * _SIDE * _SIDE)
    if len(content) != size:
        raise ValueError(f"{len(content)} bytes instead of {size}")
    rows = np.frombuffer(content, np.uint8).reshape(IMAGES, -1)
    return rows[:, 0].astype(np.int64), rows[:, 1:].reshape(-1, 3, _SIDE, _SIDE)


def _binary_names(content: bytes) -> tuple[str, ...]:
    return _checked_names(content.decode("ascii").split())


def _python_batch(name: str, content: bytes) -> tuple[Labels, Pixels]:
    found = _unpickled(name, content)
    pixels, labels = found.get("data"), np.asarray(found.get("labels"))
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        raise ValueError("its data are no bytes")
    if pixels.shape != (IMAGES, 3 * _SIDE * _SIDE) or labels.dtype.kind != "i":
        raise ValueError(f"its data are {pixels.shape}, its labels {labels.dtype}")
    return labels.astype(np.int64), pixels.reshape(-1, 3, _SIDE, _SIDE)


def _python_names(content: bytes) -> tuple[str, ...]:
    return _checked_names(_unpickled(_META, content).get("label_names"))


def _checked_names(names: Any) -> tuple[str, ...]:
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ValueError("its class names are no text")
    if len(set(names)) != _CLASSES:
        raise ValueError(f"{len(set(names))} class names instead of {_CLASSES}")
    return tuple(names)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it calls {module}.{name}") from None


def _unpickled(name: str, content: bytes) -> dict[str, Any]:
    """Compare with the published digest, then unpickle, and even so nothing but plain arrays.

    MD5, the published digest, tells of damage, not of malice.
    """
    cifar10 = torchvision_datasets().CIFAR10
    digests = dict([*cifar10.train_list, *cifar10.test_list, (_META, cifar10.meta["md5"])])
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != digests[name]:
        raise ValueError("its MD5 digest is another")
    try:
        found = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    except _BROKEN_PICKLE as error:
        raise ValueError(str(error) or type(error).__name__) from error
    if not isinstance(found, dict):
        raise ValueError("it holds no dictionary")
    return found
