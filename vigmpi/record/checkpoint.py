"""Checkpoints, written by all ranks in parallel and seen only once they are whole."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.numpy
from mpi4py import MPI
from safetensors import SafetensorError

from vigmpi import manifest
from vigmpi.comm.agreement import agreed
from vigmpi.comm.gather import gather_rows
from vigmpi.errors import InputError
from vigmpi.manifest import Manifest, Shard

Tensors = Mapping[str, np.ndarray]

_HEADER_BYTES = 2**20
_SHARD_BYTES = 2**32


class Checkpoints:
    """The checkpoints of a run, in a folder that all ranks see.

    Args:
        keep: how many of the newest are kept.
    """

    def __init__(self, comm: MPI.Comm, folder: Path, keep: int) -> None:
        self._comm = comm
        self._folder = folder
        self._keep = keep

    def begin(self, *, overwrite: bool) -> None:
        """Make sure that no other run's checkpoints could be taken for this one's. Collective.

        Raises:
            InputError: there are some, and they are not to be lost.
        """
        with agreed(self._comm), _told(self._folder):
            if self._comm.rank == 0 and (others := list(self._folder.glob("mini-batch-*"))):
                if not overwrite:
                    raise InputError(
                        f"{self._folder} holds checkpoints; type: --resume latest to go on from "
                        f"them, or --overwrite to lose them"
                    )
                for path in others:
                    _retire(path)
                self._sweep()

    def save(self, tensors: Tensors, about: Manifest) -> Path:
        """Write a checkpoint. Collective.

        Every rank writes and syncs a shard; then rank 0 writes the manifest and renames the
        folder, which makes the checkpoint visible, and removes the oldest.

        Args:
            tensors: this rank's share; no two ranks may give the same name.
            about: the manifest, without shards.

        Raises:
            InputError: it could not be written (on all ranks alike). Earlier ones are still
                there.
        """
        first = self._comm.rank == 0
        name = f"mini-batch-{about.position.mini_batches:08}"
        final, new = self._folder / name, self._folder / f".{name}.tmp"
        with agreed(self._comm), _told(new):
            if first:
                self._sweep()
                new.mkdir(parents=True)
        shard = np.zeros(1 + hashlib.sha256().digest_size, np.int64)
        with agreed(self._comm), _told(new):
            content = safetensors.numpy.save(dict(tensors))
            _write(new / _shard_name(self._comm.rank), content)
            shard[0], shard[1:] = len(content), list(hashlib.sha256(content).digest())
        rows = gather_rows(self._comm, shard)
        with agreed(self._comm), _told(final):
            if first:
                shards = [_shard(rank, row) for rank, row in enumerate(rows)]
                _write(new / manifest.NAME, replace(about, shards=shards).encode())
                self._publish(new, final)
        return final

    def _sweep(self) -> None:
        """Remove what a run that was killed while it wrote or removed has left."""
        for left_over in self._folder.glob(".mini-batch-*"):
            shutil.rmtree(left_over)

    def _publish(self, new: Path, final: Path) -> None:
        _sync(new)
        if final.exists():
            _retire(final)
        new.rename(final)
        _sync(self._folder)
        found, _ = manifest.checkpoints(self._folder)
        for path, _ in found[self._keep :]:
            _retire(path)
        self._sweep()


def load(
    folder: Path, about: Manifest, wanted: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Read tensors by name, from whichever shards hold them.

    Args:
        about: the manifest of `folder`.
        wanted: names and shapes.

    Raises:
        InputError: a shard is not as the manifest says, or a tensor is missing or of another
            shape.
    """
    found: dict[str, np.ndarray] = {}
    for shard in about.shards:
        found |= {k: v for k, v in _read_shard(folder / shard.name, shard).items() if k in wanted}
    return fitting(found, wanted, folder)


def fitting(
    found: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]], source: Path
) -> dict[str, np.ndarray]:
    """The wanted ones among tensors that were found.

    Raises:
        InputError: a tensor is missing or of another shape.
    """
    for name, shape in wanted.items():
        if name not in found:
            raise InputError(f"{source} is of another model: it has no {name}")
        if found[name].shape != shape:
            raise InputError(
                f"{source} is of another model: its {name} has the shape "
                f"{list(found[name].shape)}, this model's has {list(shape)}"
            )
    return {name: found[name] for name in wanted}


def read_tensors(path: Path, content: bytes) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file.

    Raises:
        InputError: it is none.
    """
    if int.from_bytes(content[:8], "little") > _HEADER_BYTES:
        raise InputError(f"{path} can't be read (its header is larger than 1 MiB)")
    try:
        return safetensors.numpy.load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} can't be read as safetensors ({error})") from error


def _read_shard(path: Path, shard: Shard) -> dict[str, np.ndarray]:
    if shard.size_bytes > _SHARD_BYTES:
        raise InputError(f"{path} is larger than 4 GiB, which no shard is")
    try:
        # What is checked is what is used: the file is read once.
        content = path.read_bytes() if path.stat().st_size == shard.size_bytes else b""
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror})") from error
    if hashlib.sha256(content).hexdigest() != shard.sha256:
        raise InputError(f"{path} is cut short or changed")
    return read_tensors(path, content)


def _shard_name(rank: int) -> str:
    return f"{rank}.safetensors"


def _shard(rank: int, row: np.ndarray) -> Shard:
    return Shard(_shard_name(rank), int(row[0]), bytes(row[1:].tolist()).hex())


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _retire(path: Path) -> None:
    """Make a checkpoint invisible, all at once; `_sweep` removes it."""
    path.rename(path.with_name(f".{path.name}.old"))


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"the checkpoint {path} can't be written ({error.strerror})") from error
